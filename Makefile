# bpftimed: `make` builds into build/, `make check` tests, `make demo` shows, `make bench` measures, `make install`.
# Each folder names its own parts in FOLDER/module.mk; this file has the rules.

B       ?= $(if $(SANITIZE),build-sanitize,build)
PREFIX  ?= /usr
ifneq ($(filter deb,$(MAKECMDGOALS)),)
override PREFIX := /usr
endif
DESTDIR ?=
V       ?= 0

CC        ?= gcc
CLANG     ?= clang-19
LLVM_CONFIG ?= llvm-config-19
BPFTOOL   ?= $(firstword $(wildcard /usr/sbin/bpftool) bpftool)
VERSION   := $(shell cat VERSION)

ifeq ($(V),0)
Q := @
say = @echo "  $(1)	$(patsubst $(B)/%,%,$@)"
else
say = @:
endif

WARN     := -Wall -Wextra -Werror -Wno-unused-parameter -Wshadow -Wmissing-prototypes -Wstrict-prototypes
CPPFLAGS += -D_GNU_SOURCE -I. -I$(B) -DBPFTIMED_VERSION='"$(VERSION)"' -DBPFTIMED_PREFIX='"$(PREFIX)"'
CFLAGS   ?= -O2 -g
CFLAGS   += -std=gnu11 -fno-strict-aliasing $(WARN)
LDFLAGS  +=

ifneq ($(SANITIZE),)
CFLAGS   += -fsanitize=$(SANITIZE) -fno-omit-frame-pointer -fno-sanitize-recover=undefined
LDFLAGS  += -fsanitize=$(SANITIZE)
endif

# What programs built here may use; the agent, bitcode and BPF have flags of their own.
BPF_CFLAGS := -target bpf -mcpu=v3 -O2 -g -Wall -Werror -Wno-unused-function -Wno-missing-declarations -I. -I$(B) \
	      -I/usr/include/x86_64-linux-gnu -D__TARGET_ARCH_x86
BC_CFLAGS  := -target x86_64-linux-gnu -O1 -Xclang -disable-llvm-passes -ffreestanding -fno-builtin -fPIC -mno-red-zone -mgeneral-regs-only \
	      -fno-stack-protector -fno-jump-tables -fno-unwind-tables -fno-asynchronous-unwind-tables -Wall -Wextra -Werror \
	      -Wno-unused-function -Wno-unused-parameter -I. -I$(B) -DSHM_BITCODE -emit-llvm

PROGRAMS :=
UNIT     :=
VICTIMS  :=
CLEAN    := $(B) build-sanitize

all:

# `make` on a fresh machine installs what is missing before anything is compiled.
DEPS_OK := $(shell ./tests/deps --quiet >/dev/null 2>&1 && echo yes)
ifneq ($(DEPS_OK),yes)
ifeq ($(filter clean deps help,$(MAKECMDGOALS)),)
$(info bpftimed: installing the Debian packages that are missing (make deps))
INSTALLED := $(shell ./tests/deps >&2 && echo yes)
ifneq ($(INSTALLED),yes)
$(error the packages listed in tests/deps could not be installed)
endif
endif
endif

include shm-runtime/module.mk vm-llvm/module.mk agent/module.mk bpf/module.mk daemon/module.mk cli/module.mk
include systemd/module.mk examples/module.mk tests/module.mk

all: $(PROGRAMS)

deps:
	./tests/deps

# What is compiled in besides the sources: what uses it depends on this file, which changes when they do.
CONFIG := $(VERSION) $(PREFIX)
ifneq ($(file <$(B)/config),$(CONFIG))
.PHONY: $(B)/config
endif
$(B)/config:
	@mkdir -p $(@D)
	@echo '$(CONFIG)' > $@

# ---- rules ----

$(B)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@

$(B)/%.o: %.S Makefile
	@mkdir -p $(@D)
	$(call say,AS)
	$(Q)$(CC) $(CPPFLAGS) -g -MMD -MP -c $< -o $@

$(B)/vmlinux.h: /sys/kernel/btf/vmlinux
	@mkdir -p $(@D)
	$(call say,BTF)
	$(Q)$(BPFTOOL) btf dump file $< format c > $@.tmp && mv $@.tmp $@

$(B)/%.bpf.o: %.bpf.c $(B)/vmlinux.h Makefile
	@mkdir -p $(@D)
	$(call say,BPF)
	$(Q)$(CLANG) $(BPF_CFLAGS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@

# bpf/observe.bpf.c -> build/bpf/observe.skel.h with struct observe_bpf
$(B)/%.skel.h: $(B)/%.bpf.o
	$(call say,SKEL)
	$(Q)$(BPFTOOL) gen skeleton $< name $(notdir $*)_bpf > $@.tmp && mv $@.tmp $@

$(B)/%.bc: %.c Makefile
	@mkdir -p $(@D)
	$(call say,BC)
	$(Q)$(CLANG) $(BC_CFLAGS) -MMD -MP -MF $(@:.bc=.bc.d) -c $< -o $@

# A file as a C array: build/x/y.bc -> build/x/y.bc.inc, `y_bc` and `y_bc_size` declared by the includer.
$(B)/%.inc: $(B)/%
	$(call say,INC)
	$(Q)xxd -i < $< > $@.tmp && mv $@.tmp $@

$(B)/%.a:
	@mkdir -p $(@D)
	$(call say,AR)
	$(Q)rm -f $@ && ar rcs $@ $(filter %.o,$^)

clean:
	rm -rf $(CLEAN)

-include $(shell find $(B) \( -path $(B)/container -o -path $(B)/deb \) -prune -o -name '*.d' -type f -print 2>/dev/null)

.PHONY: all deps clean check demo bench install
.DELETE_ON_ERROR:
.SECONDARY:
