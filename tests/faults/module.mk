# tests/faults: libraries that are preloaded into bpftimed, so that what it asks for fails.
FAULTS := $(addprefix $(B)/tests/faults/,memory.so clock.so)
$(B)/tests/faults/%.so: tests/faults/%.c Makefile tests/faults/module.mk
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) -D_GNU_SOURCE -O2 -g -std=gnu11 $(WARN) -Wno-missing-prototypes -fPIC -shared $< -o $@
TEST_PROGRAMS += $(FAULTS)
