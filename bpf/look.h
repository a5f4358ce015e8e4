/* SPDX-License-Identifier: (MIT OR GPL-2.0-only) */
/* look.h: what bpf/look.bpf.c says of a map, for daemon/map_look.c. */
#ifndef BPFTIME_BPF_LOOK_H
#define BPFTIME_BPF_LOOK_H

#define LOOK_MOST 256u /* entries that differ, in one look */

#endif
