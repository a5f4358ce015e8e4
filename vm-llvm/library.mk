# libbpftime-vm: what is in bpftime-vm.h, for others. Shared and static, with LLVM; nothing else of this tree is in it.
VM_SO	   := libbpftime-vm.so
VM_SONAME  := $(VM_SO).0
VM_SO_FILE := $(VM_SO).$(VERSION)
VM_PIC_OBJS := $(patsubst %,$(B)/pic/vm-llvm/%.o,insn validate resolve code interp flow worker jit lift lift_call lift_switch flat passes object library)

PROGRAMS += $(B)/$(VM_SO_FILE) $(B)/libbpftime-vm.a $(B)/bpftime-vm-worker $(B)/bpftime-vm-plugin

$(VM_PIC_OBJS): CPPFLAGS += $(shell $(LLVM_CONFIG) --cppflags)
$(VM_PIC_OBJS): WARN := $(filter-out -Wstrict-prototypes,$(WARN))

$(B)/pic/%.o: %.c Makefile $(B)/config
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -fPIC -fvisibility=hidden -MMD -MP -c $< -o $@

$(B)/$(VM_SO_FILE): $(VM_PIC_OBJS) vm-llvm/libbpftime-vm.map
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -shared -Wl,-soname,$(VM_SONAME) -Wl,--version-script,vm-llvm/libbpftime-vm.map \
		-o $@ $(filter %.o,$^) $(VM_LLVM_LIBS) -lpthread
	$(Q)ln -sf $(VM_SO_FILE) $(B)/$(VM_SONAME) && ln -sf $(VM_SO_FILE) $(B)/$(VM_SO)

# One object with the public names only.
$(B)/libbpftime-vm.a: $(VM_PIC_OBJS)
	$(call say,AR)
	$(Q)ld -r -o $(B)/pic/libbpftime-vm.o $^ && objcopy --localize-hidden $(B)/pic/libbpftime-vm.o
	$(Q)rm -f $@ && ar rcs $@ $(B)/pic/libbpftime-vm.o

$(B)/bpftime-vm-worker: $(B)/bpftimed-jit
	$(Q)cp $< $@

# They find the library beside them.
VM_LINK = $(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) -L$(B) -lbpftime-vm -Wl,-rpath,'$$ORIGIN'

$(B)/bpftime-vm-plugin: $(B)/vm-llvm/plugin_main.o $(B)/$(VM_SO_FILE)
	$(call say,LD)
	$(Q)$(VM_LINK)

# ---- unit tests ----

VM_LIBRARY_UNIT := $(patsubst %,$(B)/tests/unit/%,test_vm_conformance test_vm_library test_vm_differ)
UNIT += $(VM_LIBRARY_UNIT)

$(B)/tests/unit/test_vm_library.o: $(B)/tests/unit/vm_library.bc.inc
$(B)/tests/unit/test_vm_library: | $(B)/bpftime-vm-worker

$(B)/tests/unit/test_vm_differ: $(B)/tests/fuzz/differ.o $(B)/tests/fuzz/generate.o

# The library as others link it, with what is hidden in it out of reach.
$(VM_LIBRARY_UNIT): $(B)/libbpftime-vm.a
$(VM_LIBRARY_UNIT): LIBS = $(VM_LLVM_LIBS) -lpthread

# ---- examples: as others would build them, but with what was just built ----

VM_EXAMPLES := $(addprefix $(B)/examples/vm/,discount untrusted)
PROGRAMS += $(VM_EXAMPLES)

$(addsuffix .o,$(VM_EXAMPLES)): CPPFLAGS += -Ivm-llvm
$(VM_EXAMPLES): %: %.o $(B)/$(VM_SO_FILE)
	$(call say,LD)
	$(Q)$(VM_LINK),-rpath,'$$ORIGIN/../..'

# ---- make install-vm [PREFIX=] [DESTDIR=]: the library without the rest ----

# mode:file:where it goes
VM_INSTALLED := \
	644:vm-llvm/bpftime-vm.h:$(PREFIX)/include/bpftime-vm.h \
	755:$(B)/$(VM_SO_FILE):$(PREFIX)/lib/$(VM_SO_FILE) \
	644:$(B)/libbpftime-vm.a:$(PREFIX)/lib/libbpftime-vm.a \
	644:$(B)/vm-llvm/bpftime-vm.pc:$(PREFIX)/lib/pkgconfig/bpftime-vm.pc \
	755:$(B)/bpftime-vm-worker:$(PREFIX)/libexec/bpftime-vm/bpftime-vm-worker \
	$(foreach m,bpftime-vm bpftime-vm-program bpftime-vm-interpret bpftime-vm-native, \
		644:docs/$m.3:$(PREFIX)/share/man/man3/$m.3)
VM_INSTALLED_LINKS := $(VM_SONAME) $(VM_SO)

$(B)/vm-llvm/bpftime-vm.pc: vm-llvm/bpftime-vm.pc.in $(B)/config
	@mkdir -p $(@D)
	$(call say,PC)
	$(Q)sed 's|@PREFIX@|$(PREFIX)|g; s|@VERSION@|$(VERSION)|g' $< > $@

install-vm: $(foreach f,$(VM_INSTALLED),$(word 2,$(subst :, ,$(f))))
	$(Q)$(foreach f,$(VM_INSTALLED),install -D -m $(word 1,$(subst :, ,$(f))) $(word 2,$(subst :, ,$(f))) \
		$(DESTDIR)$(word 3,$(subst :, ,$(f))) &&) true
	$(Q)$(foreach l,$(VM_INSTALLED_LINKS),ln -sf $(VM_SO_FILE) $(DESTDIR)$(PREFIX)/lib/$(l) &&) true
	@echo "  installed under $(DESTDIR)$(PREFIX)"

uninstall-vm:
	$(Q)rm -f $(foreach f,$(VM_INSTALLED),$(DESTDIR)$(word 3,$(subst :, ,$(f)))) \
		$(foreach l,$(VM_INSTALLED_LINKS),$(DESTDIR)$(PREFIX)/lib/$(l))

.PHONY: install-vm uninstall-vm
