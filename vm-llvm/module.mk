# vm-llvm: bytecode to native. libvm.a has no LLVM in it; bpftimed-jit is the process that does.
VM_LIB_OBJS := $(patsubst %,$(B)/vm-llvm/%.o,insn validate resolve code interp flow fold symbolic additive worker)
VM_JIT_OBJS := $(patsubst %,$(B)/vm-llvm/%.o,jit lift lift_call object)
include vm-llvm/tools.mk
VM_LLVM_LIBS = $(shell $(LLVM_CONFIG) --ldflags --libs)

PROGRAMS += $(B)/bpftimed-jit

$(VM_JIT_OBJS): CPPFLAGS += $(shell $(LLVM_CONFIG) --cppflags)
$(VM_JIT_OBJS): WARN := $(filter-out -Wstrict-prototypes,$(WARN))

$(B)/libvm.a: $(VM_LIB_OBJS)

$(B)/bpftimed-jit: $(VM_JIT_OBJS) $(B)/vm-llvm/jit_main.o $(B)/vm-llvm/worker_main.o $(B)/libvm.a
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o %.a,$^) $(VM_LLVM_LIBS)

include vm-llvm/library.mk

# ---- unit tests ----

VM_UNIT := $(patsubst %,$(B)/tests/unit/%,test_vm_interp test_vm_jit test_vm_additive test_vm_worker)
UNIT += $(VM_UNIT)

$(B)/tests/unit/test_vm_jit: $(VM_JIT_OBJS)
$(VM_UNIT): $(B)/libvm.a
$(B)/tests/unit/test_vm_jit: LIBS = $(VM_LLVM_LIBS) -lZydis
$(B)/tests/unit/test_vm_jit.o $(B)/tests/unit/test_vm_worker.o: $(B)/tests/unit/vm_library.bc.inc
$(B)/tests/unit/test_vm_worker: | $(B)/bpftimed-jit
