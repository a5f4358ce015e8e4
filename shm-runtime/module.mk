# shm-runtime: maps in shared memory; with it the kernel half, the carriers and the tests of all three.

SHM_OBJS := $(B)/shm-runtime/shm_map.o
$(B)/libshm.a: $(SHM_OBJS)

$(B)/tests/unit/test_shm_map: $(B)/libshm.a
$(B)/tests/unit/test_shm_map: LIBS += -lbpf -lpthread
UNIT += $(B)/tests/unit/test_shm_map

KHALF_OBJS := $(addprefix $(B)/daemon/,khalf.o khalf_flow.o khalf_lib.o carriers.o map_copy.o map_look.o occupy.o thread_attr.o) $(B)/agent/cpus.o
$(B)/daemon/khalf_lib.o: $(B)/bpf/khalf.bpf.o.inc
$(B)/daemon/carriers.o: $(B)/bpf/carry.skel.h $(B)/bpf/carry_hook.skel.h
$(B)/daemon/map_look.o: $(B)/bpf/look.skel.h
$(B)/libkhalf.a: $(KHALF_OBJS) $(SHM_OBJS)

$(B)/tests/unit/test_khalf: $(B)/libkhalf.a
$(B)/tests/unit/test_khalf: LIBS += -lbpf -lpthread
UNIT += $(B)/tests/unit/test_khalf

$(B)/tests/unit/test_carry: $(B)/libkhalf.a $(B)/libobserve.a
$(B)/tests/unit/test_carry: LIBS += -lbpf -lelf -lz -lpthread
UNIT += $(B)/tests/unit/test_carry
