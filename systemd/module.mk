# systemd: see ../Makefile for the rules. What `make install` puts where.
SBIN	:= $(PREFIX)/sbin
BIN	:= $(PREFIX)/bin
LIBEXEC := $(PREFIX)/libexec/bpftimed
UNITS	:= $(PREFIX)/lib/systemd/system
PRESETS := $(PREFIX)/lib/systemd/system-preset
MAN	:= $(PREFIX)/share/man
DOC	:= $(PREFIX)/share/doc/bpftimed
COMPLETIONS := $(PREFIX)/share/bash-completion/completions

# mode:file:where it goes
INSTALLED_FILES := \
	755:$(B)/bpftimed:$(SBIN)/bpftimed \
	755:$(B)/bpftime:$(BIN)/bpftime \
	755:$(B)/bpftimed-jit:$(LIBEXEC)/bpftimed-jit \
	755:$(B)/bpftime-vm:$(LIBEXEC)/bpftime-vm \
	644:vm-llvm/bpftime-aot.h:$(PREFIX)/include/bpftime-aot.h \
	644:docs/bpftime-vm.1:$(MAN)/man1/bpftime-vm.1 \
	644:$(B)/systemd/bpftimed.service:$(UNITS)/bpftimed.service \
	644:systemd/bpftimed.socket:$(UNITS)/bpftimed.socket \
	644:systemd/bpftimed.preset:$(PRESETS)/60-bpftimed.preset \
	644:systemd/bpftimed.sysusers:$(PREFIX)/lib/sysusers.d/bpftimed.conf \
	644:systemd/bpftimed.tmpfiles:$(PREFIX)/lib/tmpfiles.d/bpftimed.conf \
	644:systemd/bpftime.bash-completion:$(COMPLETIONS)/bpftime \
	644:systemd/bpftimed.bash-completion:$(COMPLETIONS)/bpftimed \
	644:systemd/bpftimed.catalog:$(PREFIX)/lib/systemd/catalog/bpftimed.catalog \
	644:docs/bpftimed.8:$(MAN)/man8/bpftimed.8 \
	644:docs/bpftime.1:$(MAN)/man1/bpftime.1 \
	644:docs/bpftimed-policy.5:$(MAN)/man5/bpftimed-policy.5 \
	644:docs/policy.schema.json:$(PREFIX)/share/bpftimed/policy.schema.json \
	644:README.md:$(DOC)/README.md \
	644:LICENSE:$(DOC)/LICENSE \
	644:systemd/seccomp-targets.conf:$(DOC)/examples/seccomp-targets.conf \
	644:examples/policy/50-example.json:$(DOC)/examples/policy.d/50-example.json \
	644:examples/metrics/bpftimed-metrics.conf:$(DOC)/examples/metrics/bpftimed-metrics.conf \
	644:examples/metrics/prometheus.yml:$(DOC)/examples/metrics/prometheus.yml \
	644:examples/metrics/grafana-dashboard.json:$(DOC)/examples/metrics/grafana-dashboard.json

# Removed by uninstall when empty.
INSTALLED_DIRS := $(LIBEXEC) $(PREFIX)/share/bpftimed $(PREFIX)/lib/bpftimed/policy.d $(PREFIX)/lib/bpftimed $(DOC)/examples/policy.d \
	$(DOC)/examples/metrics $(DOC)/examples $(DOC) /etc/bpftimed/policy.d /etc/bpftimed

word_of = $(word $(1),$(subst :, ,$(2)))

$(B)/systemd/bpftimed.service: systemd/bpftimed.service.in Makefile $(B)/config
	@mkdir -p $(@D)
	$(call say,UNIT)
	$(Q)sed 's|@PREFIX@|$(PREFIX)|g' $< > $@

install: all $(B)/systemd/bpftimed.service
	$(Q)$(foreach f,$(INSTALLED_FILES),install -D -m $(call word_of,1,$(f)) $(call word_of,2,$(f)) \
		$(DESTDIR)$(call word_of,3,$(f)) &&) install -d -m 755 $(DESTDIR)/etc/bpftimed/policy.d $(DESTDIR)$(PREFIX)/lib/bpftimed/policy.d
	@echo "  installed under $(DESTDIR)$(PREFIX)"

# Policy files stay: they are the administrator's. In a staged root all folders go that nothing else is in.
uninstall:
	$(Q)rm -f $(foreach f,$(INSTALLED_FILES),$(DESTDIR)$(call word_of,3,$(f)))
ifeq ($(DESTDIR),)
	$(Q)rmdir --ignore-fail-on-non-empty $(wildcard $(INSTALLED_DIRS)) 2>/dev/null || true
else
	$(Q)cd $(DESTDIR) && rmdir -p --ignore-fail-on-non-empty $(patsubst /%,%,$(INSTALLED_DIRS) \
		$(sort $(foreach f,$(INSTALLED_FILES),$(dir $(call word_of,3,$(f)))))) 2>/dev/null || true
endif

# ---- Debian package ----

DEB_VERSION ?= $(VERSION)
DEB_ARCH     = $(shell dpkg --print-architecture)
DEB	     = $(B)/bpftimed_$(DEB_VERSION)_$(DEB_ARCH).deb

# Into $(B). Not by debhelper: what is to be installed is said above. systemd/deb/build says the rest.
deb: all
	$(Q)rm -rf $(B)/deb
	$(Q)$(MAKE) --no-print-directory -s -o all B=$(B) PREFIX=/usr DESTDIR=$(abspath $(B)/deb) install >/dev/null
	$(Q)systemd/deb/build $(B)/deb $(DEB_VERSION) $(DEB_ARCH) $(DEB)
	@echo "  $(DEB)"

.PHONY: uninstall deb
