// SPDX-License-Identifier: MIT
/*
 * dlopen: loads a library, calls a function of it, unloads it, again and again.
 *
 * usage: dlopen ROUNDS [LIBRARY FUNCTION]    (a function of no arguments that gives an int; default libz.so.1
 * zlibCompileFlags)
 */
#include <dlfcn.h>

#include "victim.h"

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 100;
	const char *lib = argc > 3 ? argv[2] : "libz.so.1", *name = argc > 3 ? argv[3] : "zlibCompileFlags";

	ready_and_wait();
	for (int i = 0; i < rounds; i++) {
		void *h = dlopen(lib, RTLD_NOW | RTLD_LOCAL);
		int (*fn)(void);

		if (!h)
			return 2;
		*(void **)&fn = dlsym(h, name);
		if (!fn)
			return 2;
		for (int k = 0; k < 100; k++) {
			fn();
			atomic_fetch_add(&calls, 1);
		}
		dlclose(h);
	}
	tell_calls();
	return 0;
}
