/* SPDX-License-Identifier: MIT */
/*
 * khalf.h: the kernel half of a group: the tool's bytecode, translated so that its map calls run shm-runtime's
 * algorithms over the group's arena; and the carriers, which keep the tool's own maps showing what the arena holds.
 */
#ifndef BPFTIME_KHALF_H
#define BPFTIME_KHALF_H

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <linux/bpf.h>

#include "../shm-runtime/shm.h"
#include "kernel_features.h"

struct map_look; /* daemon/map_look.h */

/* The name of programs of ours that use a tool's maps, because they hold what the tool's own program does, too. */
#define KHALF_BOTH "bpftimed_both"

/* A program that another one is to replace. */
struct khalf_replaced {
	int prog_fd;
	uint32_t main_in_prog;	      /* its function, in its own BTF */
	int btf_fd;		      /* BTF that has */
	uint32_t main_type, sub_type; /* the same function, and a static one */
};

struct khalf_opts {
	uint32_t prog_type, expected_attach_type;
	uint32_t attach_btf_id; /* of a BPF_PROG_TYPE_TRACING, in the kernel's own BTF */
	bool has_own_stack;	/* each run: the kernel may preempt it, and run it anew on the same processor */
	bool spares_daemon;	/* hits by shm_group_hdr.daemon are served, and not counted */
	const char *license, *name;
	int arena_fd;
	const struct shm_geo *geo;
	size_t n_geo;
	/* Maps of kind SHM_DIRECT or that only the kernel can serve keep the tool's map: direct_fd[i] >= 0. */
	const int *direct_fd;
	/* What is done when kgate is closed: a program with nothing to translate, or NULL: nothing. */
	const struct bpf_insn *closed;
	size_t n_closed;
	const struct khalf_replaced *replaces; /* NULL: nothing. Else closed is what that program does */
	/* See bpf/arrivals.h; -1: nobody wants to know which processes are served here. */
	int arrived_fd, arrivals_fd;
};

/*
 * Translates and loads. insns: map ids replaced by indices into geo[] (as for vm_compile(), additive pairs already
 * rewritten to VM_HELPER_MAP_ADD). The program first looks at shm_group_hdr.kgate: counts the hit, and works only when
 * open. Returns the program's fd or -errno, err with the verifier's last line.
 */
int khalf_load(const struct bpf_insn *insns, size_t n_insns, const struct khalf_opts *opts, char *err, size_t err_size);
/*
 * A program that does nothing but to tell of processes that are new, to stand where a group has no kernel half. Returns
 * its fd or -errno.
 */
int khalf_load_watcher(int arrived_fd, int arrivals_fd, char *err, size_t err_size);

/* ---- carriers: one per mirrored map ---- */

struct carriers; /* the hook on bpf() and all carriers of the host */

/* At the hook that kernel_features__hook() chooses. */
int carriers__new(struct carriers **out, char *err, size_t err_size);
/* As carriers__new(), with the hook given: for tests. */
int carriers__new_with(struct carriers **out, enum bpf_hook hook, char *err, size_t err_size);
void carriers__free(struct carriers *c);
/* From now on, and until carriers__free(), everything is pinned in this folder: it goes on working when the daemon is
 * killed. */
int carriers__pin(struct carriers *c, const char *dir, char *err, size_t err_size);
/*
 * What another daemon, which is gone, has pinned in this folder and what goes on: hook and carriers stay as they are.
 * Each carrier is then to be named by its handle there. Until carriers__own() carriers__free() leaves it all pinned and
 * working, and the tools' maps are seen by this process as by all others.
 */
int carriers__adopt(struct carriers **out, const char *dir, char *err, size_t err_size);
int carriers__adopt_one(struct carriers *c, int handle, bool is_enabled, const char *dir, int tool_map_fd, int arena_fd,
			const struct shm_geo *g, char *err, size_t err_size);
int carriers__own(struct carriers *c, const char *dir);
/* In another process, when the daemon is dead: turns the carriers of this arena on, as the daemon had them or was about
 * to. */
int carriers__rescue(const char *dir, uint32_t arena_id);
/* The reverse; and: from now on this process, not the daemon that is dead, sees the tools' maps as they are. */
int carriers__unrescue(const char *dir, uint32_t arena_id);
int carriers__inherit(const char *dir);
const char *carriers__hook(const struct carriers *c); /* the hook's name: bpf_hook__name() */
/*
 * How many calls of bpf() were not followed: the kernel has let them pass without running the hook at entry or exit,
 * because another program was at work on the same CPU, or what they changed could not be read even at the exit. Should
 * be, and stay, 0: a tool that made such a call may have seen or changed its map as it was. When it is not,
 * carriers__add() refuses, and what is carried is to be handed back.
 */
uint64_t carriers__missed(const struct carriers *c);
#define CARRIERS_MISSED                                                                                                \
	"the kernel has skipped %" PRIu64 " calls of the program that keeps the tools' maps up to date: other "        \
	"programs were running on the same CPU, or "                                                                   \
	"what a call had passed was gone at its end"
/*
 * Prepares a carrier, still disabled (this loads programs and takes milliseconds). While it is enabled every bpf() call
 * on this map, by any process but the daemon, sees and changes what is in the arena. tool_map_fd is the tool's own map.
 * Returns a handle or -errno.
 */
int carriers__add(struct carriers *c, int tool_map_fd, uint32_t tool_map_id, int arena_fd, const struct shm_geo *g,
		  char *err, size_t err_size);
/*
 * Cheap. From now on the carrier follows what is done to the map; it does something about it while the kgate of the
 * arena says SHM_KGATE_CARRIED. When it returns from disabling, no call is still under way in the carrier.
 */
int carriers__enable(struct carriers *c, int handle, bool on);
/*
 * Who would change the map, or have it brought up to date, waits from here to carriers__unseal(), for some
 * milliseconds. turns: for turning the gate, which takes no longer. -EAGAIN: somebody is changing it.
 */
int carriers__seal(struct carriers *c, int handle, bool turns);
void carriers__unseal(struct carriers *c, int handle);
/* Calls that change the map, also those that were tired of waiting. */
struct carrier_changes {
	uint64_t begun, ended;
};
struct carrier_changes carriers__changes(const struct carriers *c, int handle);
/* The map is the tool's own again; calls in flight have ended when this returns. */
int carriers__remove(struct carriers *c, int handle);
/* Programs of the kernel that were running when this was called have ended when it returns. */
int carriers__wait_for_programs(struct carriers *c);

/* ---- whole maps, by the daemon, while nobody else writes ---- */

struct map_copy {
	int fd; /* the tool's map */
	void *arena;
	const struct shm_geo *g;
	struct map_look *look; /* NULL: none */
};

/*
 * Tool's map -> arena, and arena -> tool's map: exactly the same keys and values afterwards, or -errno with a sentence.
 * again: the arena has what the map had some time ago, and only what differs is written. Somebody may change the tool's
 * map while it is copied into the arena: then it is not the same, of which the caller has to know, or -EAGAIN. Quick is
 * what has been copied before, with a look that finds the differences.
 */
int map_copy_in(const struct map_copy *m, bool again, char *err, size_t err_size);
int map_copy_out(const struct map_copy *m, char *err, size_t err_size);

#endif
