// SPDX-License-Identifier: MIT
/* proc.c: what /proc says about a process, and what its ELF files say. */
#include <ctype.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "target.h"

int agent_fail(struct agent_error *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (err) {
		va_start(ap, fmt);
		vsnprintf(err->text, sizeof(err->text), fmt, ap);
		va_end(ap);
	}
	return code;
}

static int read_maps(const char *path, struct vmas *out)
{
	char *line = NULL;
	size_t cap = 0, room = 0;
	FILE *f;

	memset(out, 0, sizeof(*out));
	f = fopen(path, "re");
	if (!f)
		return -errno;
	while (getline(&line, &cap, f) > 0) {
		struct vma v = {0};
		char prot[5];
		int at = 0;

		if (sscanf(line, "%lx-%lx %4s %lx %x:%x %lu %n", &v.start, &v.end, prot, &v.offset, &v.major, &v.minor,
			   &v.ino, &at) < 7)
			continue;
		v.read = prot[0] == 'r';
		v.write = prot[1] == 'w';
		v.exec = prot[2] == 'x';
		v.shared = prot[3] == 's';
		snprintf(v.path, sizeof(v.path), "%s", at ? line + at : "");
		v.path[strcspn(v.path, "\n")] = 0;
		if (out->n == room) {
			struct vma *more = realloc(out->v, (room = room ? room * 2 : 64) * sizeof(v));

			if (!more) {
				free(line);
				fclose(f);
				vmas_clear(out);
				return -ENOMEM;
			}
			out->v = more;
		}
		out->v[out->n++] = v;
	}
	free(line);
	fclose(f);
	return 0;
}

int proc_maps(pid_t pid, struct vmas *out)
{
	char path[64];
	pid_t *tids;
	int n, rc;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	rc = read_maps(path, out);
	if (rc || out->n)
		return rc;
	/* A main thread that has ended has no memory; the others have. */
	n = proc_threads(pid, &tids);
	for (int i = 0; i < n && !rc && !out->n; i++) {
		vmas_clear(out);
		snprintf(path, sizeof(path), "/proc/%d/task/%d/maps", pid, tids[i]);
		rc = read_maps(path, out);
		if (rc == -ENOENT || rc == -ESRCH)
			rc = 0;
	}
	if (n >= 0)
		free(tids);
	return rc;
}

void vmas_clear(struct vmas *m)
{
	free(m->v);
	memset(m, 0, sizeof(*m));
}

static ssize_t read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	if (n < 0)
		n = -errno;
	else
		buf[n] = 0;
	close(fd);
	return n;
}

struct task_at proc_task_at(pid_t pid, pid_t tid)
{
	struct task_at at = {.where = TASK_GONE};
	char path[64], buf[256];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/syscall", pid, tid);
	if (read_file(path, buf, sizeof(buf)) <= 0)
		return at;
	if (!strncmp(buf, "running", 7)) {
		at.where = TASK_RUNNING;
	} else if (sscanf(buf, "%ld %lx %lx %lx %lx %lx %lx %lx %lx", &at.nr, &at.arg[0], &at.arg[1], &at.arg[2],
			  &at.arg[3], &at.arg[4], &at.arg[5], &at.sp, &at.ip) == 9) {
		at.where = TASK_IN_SYSCALL;
	} else if (sscanf(buf, "%ld %lx %lx", &at.nr, &at.sp, &at.ip) == 3) {
		at.where = TASK_BLOCKED_ELSEWHERE;
	}
	return at;
}

/* Everything behind the command name, which may hold any character. */
static int stat_tail(pid_t pid, pid_t tid, char *buf, size_t size, char **tail)
{
	char path[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	n = read_file(path, buf, size);
	if (n <= 0)
		return n ? (int)n : -ESRCH;
	*tail = strrchr(buf, ')');
	if (!*tail || (*tail)[1] != ' ')
		return -EPROTO;
	*tail += 2;
	return 0;
}

char proc_task_state(pid_t pid, pid_t tid)
{
	char buf[1024], *tail;

	return stat_tail(pid, tid, buf, sizeof(buf), &tail) ? 0 : tail[0];
}

int proc_stat_field(pid_t pid, int field, uint64_t *value)
{
	char buf[1024], *tail;
	int err = stat_tail(pid, pid, buf, sizeof(buf), &tail);

	if (err)
		return err;
	for (int i = 3; i < field && tail; i++) {
		tail = strchr(tail, ' ');
		if (tail)
			tail++;
	}
	if (!tail)
		return -ENOENT;
	*value = strtoull(tail, NULL, 10);
	return 0;
}

int proc_threads(pid_t pid, pid_t **tids)
{
	char path[64];
	size_t room = 0;
	int n = 0;
	struct dirent *e;
	DIR *d;

	*tids = NULL;
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	d = opendir(path);
	if (!d)
		return -errno;
	while ((e = readdir(d))) {
		if (!isdigit((unsigned char)e->d_name[0]))
			continue;
		if ((size_t)n == room) {
			pid_t *more = realloc(*tids, (room = room ? room * 2 : 16) * sizeof(pid_t));

			if (!more) {
				closedir(d);
				free(*tids);
				return -ENOMEM;
			}
			*tids = more;
		}
		(*tids)[n++] = atoi(e->d_name);
	}
	closedir(d);
	return n;
}

int proc_status(pid_t pid, const char *name, char *value, size_t size)
{
	char path[64], buf[8192], *line, *save = NULL;
	size_t len = strlen(name);
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	n = read_file(path, buf, sizeof(buf));
	if (n < 0)
		return (int)n;
	for (line = strtok_r(buf, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (strncmp(line, name, len) || line[len] != ':')
			continue;
		line += len + 1;
		line += strspn(line, " \t");
		snprintf(value, size, "%s", line);
		return 0;
	}
	return -ENOENT;
}

bool elf_is_go(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool go = false;
	struct stat st;
	uint8_t *m = MAP_FAILED;

	if (fd < 0)
		return false;
	if (!fstat(fd, &st) && st.st_size > (off_t)sizeof(Elf64_Ehdr))
		m = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	if (m == MAP_FAILED)
		return false;
	const Elf64_Ehdr *eh = (const void *)m;
	uint64_t size = st.st_size, table = (uint64_t)eh->e_shnum * sizeof(Elf64_Shdr);

	if (eh->e_shoff < size && table <= size - eh->e_shoff && eh->e_shstrndx < eh->e_shnum) {
		const Elf64_Shdr *sh = (const void *)(m + eh->e_shoff);
		const Elf64_Shdr *names = &sh[eh->e_shstrndx];

		for (int i = 0; i < eh->e_shnum && names->sh_offset < size; i++) {
			uint64_t at = names->sh_offset + sh[i].sh_name;

			if (at + sizeof(".go.buildinfo") <= size &&
			    (!memcmp(m + at, ".go.buildinfo", sizeof(".go.buildinfo")) ||
			     !memcmp(m + at, ".gopclntab", sizeof(".gopclntab"))))
				go = true;
		}
	}
	munmap(m, st.st_size);
	return go;
}

uint64_t elf_mapped_symbol(const uint8_t *image, size_t size, const char *name)
{
	const Elf64_Ehdr *eh = (const void *)image;
	const Elf64_Shdr *sh;

	if (size < sizeof(*eh) || memcmp(eh->e_ident, ELFMAG, SELFMAG) || eh->e_shoff >= size ||
	    (uint64_t)eh->e_shnum * sizeof(*sh) > size - eh->e_shoff)
		return 0;
	sh = (const void *)(image + eh->e_shoff);
	for (int i = 0; i < eh->e_shnum; i++) {
		const Elf64_Shdr *str;

		if (sh[i].sh_type != SHT_DYNSYM || sh[i].sh_link >= eh->e_shnum || sh[i].sh_offset > size ||
		    sh[i].sh_size > size - sh[i].sh_offset)
			continue;
		str = &sh[sh[i].sh_link];
		for (uint64_t k = 0; k < sh[i].sh_size / sizeof(Elf64_Sym); k++) {
			const Elf64_Sym *s = (const Elf64_Sym *)(image + sh[i].sh_offset) + k;
			uint64_t at = str->sh_offset + s->st_name;

			if (at + strlen(name) + 1 <= size && !strcmp((const char *)image + at, name))
				return s->st_value;
		}
	}
	return 0;
}
