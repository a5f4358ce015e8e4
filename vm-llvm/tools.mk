# vm-llvm: object files, the text of instructions, and what bpftime-vm does with both.
VM_LIB_OBJS += $(patsubst %,$(B)/vm-llvm/%.o,disasm elf btf_maps)
VM_JIT_OBJS += $(patsubst %,$(B)/vm-llvm/%.o,flat lift_switch)

# ---- unit tests ----

VM_TOOLS_UNIT := $(patsubst %,$(B)/tests/unit/%,test_vm_disasm test_vm_native)
UNIT += $(VM_TOOLS_UNIT)
$(B)/tests/unit/test_vm_native: $(VM_JIT_OBJS)
$(VM_TOOLS_UNIT): $(B)/libvm.a
$(B)/tests/unit/test_vm_native: LIBS = $(VM_LLVM_LIBS)
