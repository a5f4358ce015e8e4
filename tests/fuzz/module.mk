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

FUZZERS	       := validate interpret elf
FUZZ_SRC       := $(addprefix vm-llvm/,insn.c validate.c interp.c flow.c)
FUZZ_ELF_SRC   := $(addprefix vm-llvm/,elf.c btf_maps.c disasm.c standalone.c resolve.c)
FUZZ_PROGRAMS  := $(addprefix $(B)/tests/fuzz/fuzz_,$(FUZZERS))
TEST_PROGRAMS  += $(FUZZ_PROGRAMS)

$(B)/tests/fuzz/fuzz_elf: $(FUZZ_ELF_SRC)
$(FUZZ_PROGRAMS): $(B)/%: %.c $(FUZZ_SRC) $(wildcard vm-llvm/*.h) Makefile
	@mkdir -p $(@D)
	$(call say,FUZZ)
	$(Q)$(CLANG) $(CPPFLAGS) -std=gnu11 -O1 -g -fno-strict-aliasing -fsanitize=fuzzer,address,undefined \
		-fno-sanitize-recover=undefined -o $@ $(filter %.c,$^)

# A good object file to begin with. Large sections of zeroes in a header of few bytes are refused above 256 MiB.
$(B)/tests/fuzz/corpus-elf/good: $(B)/tests/unit/vm_object.bpf.o
	@mkdir -p $(@D)
	@cp $< $@

fuzz-elf: $(B)/tests/fuzz/corpus-elf/good
fuzz-elf: FUZZ_OPTIONS := -max_len=16384 -rss_limit_mb=4096
fuzz-validate fuzz-interpret: FUZZ_OPTIONS := -max_len=4096

$(addprefix fuzz-,$(FUZZERS)): fuzz-%: $(B)/tests/fuzz/fuzz_%
	@mkdir -p $(B)/tests/fuzz/corpus-$*
	$< -max_total_time=$(SECONDS) $(FUZZ_OPTIONS) $(B)/tests/fuzz/corpus-$*

.PHONY: fuzz $(addprefix fuzz-,$(FUZZERS))
