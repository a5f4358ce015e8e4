# vm-llvm: object files, the text of instructions, and what bpftime-vm does with both.
VM_LIB_OBJS += $(patsubst %,$(B)/vm-llvm/%.o,disasm elf btf_maps standalone)
VM_JIT_OBJS += $(patsubst %,$(B)/vm-llvm/%.o,flat lift_switch passes)

# What `bpftime vm` and `bpftime aot` run: with LLVM, which bpftime itself does not link.
VM_TOOL_OBJS := $(patsubst %,$(B)/vm-llvm/%.o,tool_main tool_disasm tool_run tool_aot)
VM_TOOL_LLVM := $(B)/vm-llvm/aot.o
$(VM_TOOL_LLVM): CPPFLAGS += $(shell $(LLVM_CONFIG) --cppflags)
$(VM_TOOL_LLVM): WARN := $(filter-out -Wstrict-prototypes,$(WARN))

$(B)/bpftime-vm: $(VM_TOOL_OBJS) $(VM_TOOL_LLVM) $(VM_JIT_OBJS) $(B)/libvm.a
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o %.a,$^) $(VM_LLVM_LIBS)
PROGRAMS += $(B)/bpftime-vm

# ---- unit tests ----

VM_TOOLS_UNIT := $(patsubst %,$(B)/tests/unit/%,test_vm_disasm test_vm_native test_vm_elf test_vm_aot)
UNIT += $(VM_TOOLS_UNIT)
$(B)/tests/unit/test_vm_native: $(VM_JIT_OBJS)
$(B)/tests/unit/test_vm_aot: $(VM_JIT_OBJS) $(VM_TOOL_LLVM)
$(VM_TOOLS_UNIT): $(B)/libvm.a
$(B)/tests/unit/test_vm_native $(B)/tests/unit/test_vm_aot: LIBS = $(VM_LLVM_LIBS)
$(B)/tests/unit/test_vm_elf.o: $(B)/tests/unit/vm_object.bpf.o.inc
