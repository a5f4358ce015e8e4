# daemon: see ../Makefile for the rules
# The shell: options, policy, control socket; knows the engine by engine.h only.
POLICY_OBJS := $(addprefix $(B)/daemon/,policy.o policy_read.o policy_reader.o policy_files.o json_place.o nearest.o subject.o digest.o procfs.o)
$(POLICY_OBJS): $(B)/config
SHELL_OBJS  := $(addprefix $(B)/daemon/,main.o private_libs.o server.o runtime_dir.o log.o log_sink.o status.o utf8.o decision.o \
	journal.o openmetrics.o metrics.o metrics_http.o) $(POLICY_OBJS)
SHELL_LIBS  := -ljson-c -lsystemd
$(B)/daemon/main.o $(B)/daemon/status.o $(B)/daemon/metrics.o $(B)/daemon/state.o: $(B)/config

UNIT += $(B)/tests/unit/test_policy $(B)/tests/unit/test_subject $(B)/tests/unit/test_status $(B)/tests/unit/test_bytecode
$(B)/tests/unit/test_policy: LIBS := -ljson-c
$(B)/tests/unit/test_policy: $(POLICY_OBJS)
$(B)/tests/unit/test_subject: $(addprefix $(B)/daemon/,subject.o digest.o procfs.o nearest.o)
$(B)/tests/unit/test_status: LIBS := -ljson-c
$(B)/tests/unit/test_status: $(addprefix $(B)/daemon/,status.o utf8.o)
$(B)/tests/unit/test_bytecode: $(B)/daemon/bytecode.o $(B)/daemon/digest.o

UNIT += $(B)/tests/unit/test_decision
$(B)/tests/unit/test_decision: LIBS := -ljson-c -lsystemd
$(B)/tests/unit/test_decision: $(addprefix $(B)/daemon/,decision.o journal.o log.o log_sink.o utf8.o)

UNIT += $(B)/tests/unit/test_openmetrics
$(B)/tests/unit/test_openmetrics: LIBS := -ljson-c -lsystemd
$(B)/tests/unit/test_openmetrics: $(addprefix $(B)/daemon/,openmetrics.o utf8.o metrics_http.o metrics.o decision.o journal.o log.o log_sink.o) \
	$(POLICY_OBJS) $(B)/tests/fake/engine.o $(B)/daemon/status.o

UNIT += $(B)/tests/unit/test_sampler
$(B)/tests/unit/test_sampler: $(B)/daemon/sampler.o

UNIT += $(B)/tests/unit/test_claims
$(B)/tests/unit/test_claims: LIBS := -lbpf
$(B)/tests/unit/test_claims: $(addprefix $(B)/daemon/,claims.o mapped.o pins.o procfs.o)

UNIT += $(B)/tests/unit/test_handlers
$(B)/tests/unit/test_handlers: LIBS := -lbpf -lpthread
$(B)/tests/unit/test_handlers: $(addprefix $(B)/daemon/,handlers.o uprobe.o) $(B)/agent/pid_ns.o

# The engine, and the whole daemon.
ENGINE_OBJS := $(addprefix $(B)/daemon/,engine.o converge.o watch.o follow.o plan.o build.o builder.o hosts.o domain.o escape.o replace.o switch.o report.o measure.o host.o top.o sampler.o tell.o probes.o repair.o symbol.o uprobe.o tracepoint.o permit.o obey.o \
	library.o claims.o views.o park.o handlers.o mapped.o pins.o guard.o predecessor.o state.o record.o recover_state.o adopt.o adopt_group.o adopt_host.o)
$(B)/daemon/library.o: $(B)/agent/helpers.bc.inc
$(B)/daemon/views.o: $(B)/bpf/views.skel.h
$(B)/daemon/park.o: $(B)/bpf/park.skel.h
$(B)/daemon/handlers.o: $(B)/bpf/handlers.skel.h

$(B)/bpftimed: $(SHELL_OBJS) $(ENGINE_OBJS) $(B)/libagent.a $(B)/libkhalf.a $(B)/libobserve.a $(B)/libshm.a $(B)/libvm.a
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(SHELL_OBJS) $(ENGINE_OBJS) $(B)/libagent.a $(B)/libkhalf.a $(B)/libobserve.a \
		$(B)/libshm.a $(B)/libvm.a $(SHELL_LIBS) $(AGENT_LIBS) $(OBSERVE_LIBS)
PROGRAMS += $(B)/bpftimed

# The shell with an engine that touches nothing, for tests of the command line.
FAKE := $(B)/tests/fake/bpftimed
$(FAKE): $(B)/tests/fake/engine.o $(SHELL_OBJS)
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(SHELL_LIBS)
TEST_PROGRAMS += $(FAKE)
