# agent: see ../Makefile for the rules

# ---- in the target: one flat, position-independent blob of code ----

IMAGE_CFLAGS := -std=gnu11 -O2 -I. -ffreestanding -fno-builtin -fpie -fvisibility=hidden -mgeneral-regs-only \
	-mno-red-zone -fno-stack-protector -fno-jump-tables -fcf-protection=none -fno-asynchronous-unwind-tables \
	-fno-unwind-tables -fno-tree-loop-distribute-patterns -fno-strict-aliasing -Wall -Wextra -Werror

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

AGENT_OBJS := $(addprefix $(B)/agent/,image.o open.o proc.o ptrace.o choose.o inject.o decode.o place.o stub.o hold.o elf.o \
	site.o patch.o quiesce.o service.o)
AGENT_LIBS := -lZydis -lbpf -lpthread

$(B)/agent/image.o: $(B)/agent/image.bin.inc
$(B)/agent/service.o: $(B)/bpf/service.skel.h
$(B)/bpf/service.bpf.o: agent/abi.h agent/slot.h shm-runtime/shm.h
$(B)/libagent.a: $(AGENT_OBJS)
