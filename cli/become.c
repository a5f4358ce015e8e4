/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

enum cli_exit cli_become(const char *installed_dir, char **argv)
{
	char beside[PATH_MAX] = "", installed[PATH_MAX], *slash;

	if (readlink("/proc/self/exe", beside, sizeof(beside) - strlen(argv[0]) - 1) > 0) {
		slash = strrchr(beside, '/');
		strcpy(slash ? slash + 1 : beside, argv[0]);
		execv(beside, argv);
	}
	snprintf(installed, sizeof(installed), "%s/%s", installed_dir, argv[0]);
	execv(installed, argv);
	cli_complain("%s cannot be run: %s", installed, strerror(errno));
	return CLI_NO;
}
