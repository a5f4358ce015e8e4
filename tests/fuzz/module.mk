# tests/fuzz: `make fuzz [SEED=N] [COUNT=N]` runs random programs by all engines, for ever without a COUNT.
# `make fuzz-validate fuzz-interpret [SECONDS=N]`: libFuzzer with address and undefined-behaviour sanitizers.
SEED	?= 0
COUNT	?= 0
SECONDS ?= 60

DIFFER_OBJS := $(B)/tests/fuzz/differ.o $(B)/tests/fuzz/generate.o
TEST_PROGRAMS += $(B)/tests/fuzz/vm-differ

$(B)/tests/fuzz/vm-differ: $(B)/tests/fuzz/differ_main.o $(DIFFER_OBJS) $(B)/libbpftime-vm.a
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o %.a,$^) $(VM_LLVM_LIBS) -lpthread

fuzz: $(B)/tests/fuzz/vm-differ
	$< --seed $(SEED) --count $(COUNT)

VM_FUZZERS  := $(addprefix $(B)/tests/fuzz/,fuzz_validate fuzz_interpret)
VM_FUZZ_SRC := $(addprefix vm-llvm/,insn.c validate.c interp.c flow.c)
TEST_PROGRAMS += $(VM_FUZZERS)

$(VM_FUZZERS): $(B)/%: %.c $(VM_FUZZ_SRC) $(wildcard vm-llvm/*.h) Makefile
	@mkdir -p $(@D)
	$(call say,FUZZ)
	$(Q)$(CLANG) $(CPPFLAGS) -std=gnu11 -O1 -g -fno-strict-aliasing -fsanitize=fuzzer,address,undefined \
		-fno-sanitize-recover=undefined -o $@ $(filter %.c,$^)

fuzz-validate fuzz-interpret: fuzz-%: $(B)/tests/fuzz/fuzz_%
	@mkdir -p $(B)/tests/fuzz/corpus-$*
	$< -max_total_time=$(SECONDS) -max_len=4096 $(B)/tests/fuzz/corpus-$*

.PHONY: fuzz fuzz-validate fuzz-interpret

# Begins with a good object file. Large sections of zeroes in a header of few bytes are refused above 256 MiB.
$(B)/tests/fuzz/fuzz_elf: tests/fuzz/fuzz_elf.c $(addprefix vm-llvm/,elf.c btf_maps.c disasm.c standalone.c resolve.c) \
	$(VM_FUZZ_SRC) $(wildcard vm-llvm/*.h) Makefile
	@mkdir -p $(@D)
	$(call say,FUZZ)
	$(Q)$(CLANG) $(CPPFLAGS) -std=gnu11 -O1 -g -fno-strict-aliasing -fsanitize=fuzzer,address,undefined \
		-fno-sanitize-recover=undefined -o $@ $(filter %.c,$^)
TEST_PROGRAMS += $(B)/tests/fuzz/fuzz_elf

fuzz-elf: $(B)/tests/fuzz/fuzz_elf $(B)/tests/unit/vm_object.bpf.o
	@mkdir -p $(B)/tests/fuzz/corpus-elf
	@cp $(B)/tests/unit/vm_object.bpf.o $(B)/tests/fuzz/corpus-elf/good
	$< -max_total_time=$(SECONDS) -max_len=16384 -rss_limit_mb=4096 $(B)/tests/fuzz/corpus-elf

.PHONY: fuzz-elf
