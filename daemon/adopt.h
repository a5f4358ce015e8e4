/* SPDX-License-Identifier: MIT */
/*
 * adopt.h: a bpftimed that starts after another one was killed goes on with what that had taken over, without touching
 * a target: nothing is stopped, written, copied or moved.
 *
 * What works is pinned, and what the killed one knew of it stands in state.json (record.h). The model is made again
 * from the two, whole, as it was when the file was written; then the daemon looks at the host as one that was asleep:
 * what tools and targets have done meanwhile it finds as after a lost event, and deals with as ever. So two things are
 * asked before: is it all there, and is it what was written down? The file must tell all (state__was_settled()), be of
 * this very build, and agree with what tools have attached, what is pinned, what the gates say and what targets have
 * in their memory. Any doubt is a reason to hand back everything, as recover_state() does.
 *
 * Until all of it has been looked at nothing is changed, and what is pinned stays: a daemon that is killed meanwhile,
 * or that finds a reason, leaves what it has found.
 */
#ifndef BPFTIME_ADOPT_H
#define BPFTIME_ADOPT_H

#include <stdbool.h>
#include <stddef.h>

struct adoption;
struct engine;

/*
 * What the killed one has left, as far as can be seen without looking at the host. NULL: there is nothing to go on
 * with, with the reason in why, a clause, which is empty when nothing is left at all.
 */
struct adoption *adopt__read(char *why, size_t why_size);
/* NULL is allowed. */
void adopt__free(struct adoption *a);
/*
 * The engine has its observer and repairer, and as yet no carriers and hosts. 0: it has all, and what was left is its
 * own. -errno, with the reason in why: it is as it was, and so is what was left.
 */
int adopt__restore(struct adoption *a, struct engine *e, char *why, size_t why_size);
/* Once the engine runs: what has happened meanwhile, and what the policy says of it now. */
void adopt__catch_up(struct adoption *a, struct engine *e);

#endif
