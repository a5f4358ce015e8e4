# agent: see ../Makefile for the rules

# ---- in the target: one flat, position-independent blob of code ----

IMAGE_CFLAGS := -std=gnu11 -O2 -I. -ffreestanding -fno-builtin -fpie -fvisibility=hidden -mgeneral-regs-only \
	-mno-red-zone -fno-stack-protector -fno-jump-tables -fcf-protection=none -fno-asynchronous-unwind-tables \
	-fno-unwind-tables -fno-tree-loop-distribute-patterns -fno-strict-aliasing -Wall -Wextra -Werror

# Two functions deep, each with its return address, and a call of agent_service() or agent_wait(): see AGENT_STACK_GENERAL.
IMAGE_CFLAGS += -Wstack-usage=96

$(B)/agent/image/%.o: agent/%.c Makefile agent/module.mk
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(IMAGE_CFLAGS) -MMD -MP -c $< -o $@

$(B)/agent/image/%.o: agent/%.S Makefile agent/module.mk
	@mkdir -p $(@D)
	$(call say,AS)
	$(Q)$(CC) -I. -MMD -MP -c $< -o $@

$(B)/agent/image.elf: $(B)/agent/image/entry.o $(B)/agent/image/hit.o agent/image.ld
	$(call say,LD)
	$(Q)ld -nostdlib -static --no-dynamic-linker -T agent/image.ld -o $@ $(filter %.o,$^)

$(B)/agent/image.bin: $(B)/agent/image.elf
	$(call say,IMAGE)
	$(Q)objcopy -O binary -j .text $< $@

# ---- from outside ----

AGENT_OBJS := $(addprefix $(B)/agent/,image.o open.o proc.o ptrace.o choose.o inject.o decode.o form.o place.o step.o stub.o stubs.o stand.o hold.o bury.o elf.o \
	aside.o counters.o site.o patch.o children.o pages.o adopt.o quiesce.o threads.o cpus.o service.o pid_ns.o)
AGENT_LIBS := -lZydis -lbpf -lpthread

$(B)/agent/image.o: $(B)/agent/image.bin.inc
$(B)/agent/service.o: $(B)/bpf/service.skel.h
$(B)/agent/threads.o: $(B)/bpf/threads.skel.h
$(B)/bpf/service.bpf.o: agent/abi.h agent/slot.h shm-runtime/shm.h
$(B)/libagent.a: $(AGENT_OBJS)

# ---- tests ----

AGENT_VICTIMS := $(patsubst tests/victims/%.c,$(B)/tests/victims/%,$(wildcard tests/victims/*.c))
AGENT_VICTIMS += $(patsubst $(B)/tests/victims/%,$(B)/tests/victims/low-%,$(AGENT_VICTIMS))
VICTIMS += $(AGENT_VICTIMS)

# Programs to be probed: built as programs commonly are, never with sanitizers.
$(B)/tests/victims/%: tests/victims/%.c Makefile agent/module.mk
	@mkdir -p $(@D)
	$(call say,VICTIM)
	$(Q)$(CC) -std=gnu11 -D_GNU_SOURCE -O2 -g -I. $(WARN) -fPIE -pie -MMD -MP -o $@ $< -lpthread -ldl

# The same at 4 MiB, not PIE, not optimized: functions begin with push %rbp; mov %rsp,%rbp.
$(B)/tests/victims/low-%: tests/victims/%.c Makefile agent/module.mk
	@mkdir -p $(@D)
	$(call say,VICTIM)
	$(Q)$(CC) -std=gnu11 -D_GNU_SOURCE -O0 -g -I. $(WARN) -fno-pie -no-pie -MMD -MP -o $@ $< -lpthread -ldl

# examples/workload in the same way, and without symbols.
$(B)/tests/victims/low-workload: examples/workload.c Makefile agent/module.mk
	@mkdir -p $(@D)
	$(call say,VICTIM)
	$(Q)$(CC) -std=gnu11 -D_GNU_SOURCE -O0 -g -I. $(WARN) -fno-pie -no-pie -MMD -MP -o $@ $< -lpthread

$(B)/tests/victims/stripped-calls: $(B)/tests/victims/low-calls
	$(call say,VICTIM)
	$(Q)strip -o $@ $<

# Not a program: stands in front of malloc() in programs that are run with it.
$(B)/tests/victims/preload/%.so: tests/victims/preload/%.c Makefile agent/module.mk
	@mkdir -p $(@D)
	$(call say,VICTIM)
	$(Q)$(CC) -std=gnu11 -D_GNU_SOURCE -O2 -g $(WARN) -fPIC -shared -MMD -MP -o $@ $< -ldl

$(B)/tests/victims/i386: tests/victims/i386.S agent/module.mk
	@mkdir -p $(@D)
	$(call say,VICTIM)
	$(Q)$(CC) -m32 -c -o $@.o $< && ld -m elf_i386 -o $@ $@.o

VICTIMS += $(B)/tests/victims/low-workload $(B)/tests/victims/stripped-calls $(B)/tests/victims/preload/mallocs.so $(B)/tests/victims/i386

AGENT_TESTS := $(patsubst tests/unit/%.c,$(B)/tests/unit/%,$(wildcard tests/unit/test_agent*.c))
UNIT += $(AGENT_TESTS)
$(AGENT_TESTS): $(B)/tests/unit/agent_fixture.o $(B)/daemon/kernel_features.o $(B)/libagent.a | $(AGENT_VICTIMS) $(B)/tests/victims/stripped-calls
$(AGENT_TESTS): LIBS += $(AGENT_LIBS) -lz
# This one compiles programs, with LLVM in the same process.
$(B)/tests/unit/test_agent_helpers: $(VM_JIT_OBJS) $(B)/libvm.a
$(B)/tests/unit/test_agent_helpers: LIBS += $(VM_LLVM_LIBS)
$(B)/tests/unit/test_agent_helpers.o: $(B)/agent/helpers.bc.inc
