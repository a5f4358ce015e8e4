# tests/bench: `make bench`
$(B)/tests/bench/target: $(B)/tests/bench/target.o $(B)/tests/bench/functions.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lpthread

$(B)/tests/bench/crowd: $(B)/tests/bench/crowd.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lpthread

$(B)/tests/bench/probe: $(B)/tests/bench/probe.o $(B)/daemon/uprobe.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lbpf

$(B)/tests/bench/many: $(B)/tests/bench/many.o $(B)/daemon/uprobe.o
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lbpf

$(B)/tests/bench/places: $(B)/tests/bench/places.o $(B)/libagent.a
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ -lZydis -lbpf -lelf -lz -lpthread

bench: all bench-vm-programs $(B)/tests/bench/target $(B)/tests/bench/probe $(B)/tests/bench/places $(B)/tests/bench/many $(B)/tests/bench/crowd
	@tests/bench/run $(B)
	@tests/bench/halves $(B)
	@tests/bench/scale $(B)
	@tests/bench/vm $(B)

# The programs of tests/bench/vm: one source, as eBPF, by gcc and by clang.
VM_PROGRAMS := $(patsubst tests/bench/vm_programs/%.c,%,$(wildcard tests/bench/vm_programs/*.c))
VM_PROGRAM  := $(B)/tests/bench/vm_programs
VM_NATIVE_CFLAGS := -O2 -fPIC -shared -fvisibility=hidden -Wall -Wextra -Werror -Wno-unused-parameter

$(VM_PROGRAM)/%.bpf.o: tests/bench/vm_programs/%.c tests/bench/vm_programs/program.h tests/bench/module.mk
	@mkdir -p $(@D)
	$(call say,BPF)
	$(Q)$(CLANG) -target bpf -mcpu=v3 -O2 -g -fno-builtin -Wall -Werror -Wno-unused-function -c $< -o $@

$(VM_PROGRAM)/%.gcc.so: tests/bench/vm_programs/%.c tests/bench/vm_programs/program.h tests/bench/module.mk
	@mkdir -p $(@D)
	$(call say,GCC)
	$(Q)$(CC) $(VM_NATIVE_CFLAGS) -o $@ $<

$(VM_PROGRAM)/%.clang.so: tests/bench/vm_programs/%.c tests/bench/vm_programs/program.h tests/bench/module.mk
	@mkdir -p $(@D)
	$(call say,CLANG)
	$(Q)$(CLANG) $(VM_NATIVE_CFLAGS) -o $@ $<

$(VM_PROGRAM)/%.march.so: tests/bench/vm_programs/%.c tests/bench/vm_programs/program.h tests/bench/module.mk
	@mkdir -p $(@D)
	$(call say,CLANG)
	$(Q)$(CLANG) $(VM_NATIVE_CFLAGS) -march=native -o $@ $<

$(B)/tests/bench/vm_run: $(B)/tests/bench/vm_run.o $(VM_JIT_OBJS) $(B)/libvm.a
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(VM_LLVM_LIBS) -lbpf -ldl

bench-vm-programs: $(B)/tests/bench/vm_run $(B)/bpftimed-jit \
	$(foreach p,$(VM_PROGRAMS),$(addprefix $(VM_PROGRAM)/$(p),.bpf.o .gcc.so .clang.so .march.so))

bench-vm: bench-vm-programs
	@tests/bench/vm $(B)

.PHONY: bench-vm bench-vm-programs
