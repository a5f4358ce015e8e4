# tests/fuzz: `make fuzz [SEED=N] [COUNT=N]` runs random programs by all engines, for ever without a COUNT.
SEED  ?= 0
COUNT ?= 0

DIFFER_OBJS := $(B)/tests/fuzz/differ.o $(B)/tests/fuzz/generate.o
TEST_PROGRAMS += $(B)/tests/fuzz/vm-differ

$(B)/tests/fuzz/vm-differ: $(B)/tests/fuzz/differ_main.o $(DIFFER_OBJS) $(B)/libbpftime-vm.a
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o %.a,$^) $(VM_LLVM_LIBS) -lpthread

fuzz: $(B)/tests/fuzz/vm-differ
	$< --seed $(SEED) --count $(COUNT)

.PHONY: fuzz
