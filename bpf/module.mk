# bpf: see ../Makefile for the rules
# The observer: kernel-side programs, their skeletons, and what the daemon does with them.

OBSERVE_SKEL := $(B)/bpf/observe.skel.h $(B)/bpf/scan.skel.h
OBSERVE_OBJ  := $(addprefix $(B)/daemon/,observe.o scan.o capture.o recover.o proof.o bytecode.o digest.o kernel_features.o) $(B)/agent/pid_ns.o
OBSERVE_LIBS := -lbpf -lelf -lz

$(B)/daemon/observe.o $(B)/daemon/scan.o: | $(OBSERVE_SKEL)
$(B)/agent/pid_ns.o: $(B)/bpf/pid_ns.skel.h
$(B)/daemon/kernel_features.o: $(B)/bpf/lsm_trial.skel.h $(B)/bpf/replace_trial.skel.h
$(B)/libobserve.a: $(OBSERVE_OBJ)

UNIT += $(B)/tests/unit/test_observe $(B)/tests/unit/test_recover
$(B)/tests/unit/test_observe $(B)/tests/unit/test_recover: $(B)/libobserve.a
$(B)/tests/unit/test_observe $(B)/tests/unit/test_recover: LIBS := $(OBSERVE_LIBS)
