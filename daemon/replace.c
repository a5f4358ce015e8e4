/* SPDX-License-Identifier: MIT */
#include "daemon/replace.h"

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Of the program's first function, in its own BTF. -errno. */
static int read_info(int fd, uint32_t *btf_id, uint32_t *main_type)
{
	struct bpf_func_info *func;
	struct bpf_prog_info info = {0};
	uint32_t len = sizeof(info), n;
	int err;

	if (bpf_obj_get_info_by_fd(fd, &info, &len))
		return -errno;
	n = info.nr_func_info;
	if (!info.btf_id || !n || info.func_info_rec_size < sizeof(*func))
		return -EOPNOTSUPP;
	*btf_id = info.btf_id;
	func = calloc(n, info.func_info_rec_size);
	if (!func)
		return -ENOMEM;
	info = (struct bpf_prog_info){
		.nr_func_info = n, .func_info_rec_size = info.func_info_rec_size, .func_info = (uintptr_t)func};
	len = sizeof(info);
	err = bpf_obj_get_info_by_fd(fd, &info, &len) ? -errno : 0;
	*main_type = func->type_id;
	free(func);
	return err;
}

/* The tool's types, and a function that stands for those of ours. Returns its type, or -errno. */
static int add_types(struct btf *out, const struct btf *tools, uint32_t *first)
{
	int base = btf__add_btf(out, tools), number, proto;

	if (base < 0)
		return base;
	*first = (uint32_t)base;
	number = btf__add_int(out, "int", 4, BTF_INT_SIGNED);
	proto = number < 0 ? number : btf__add_func_proto(out, number);
	return proto < 0 ? proto : btf__add_func(out, "bpftimed_map", BTF_FUNC_STATIC, proto);
}

static int load_types(struct khalf_replaced *r, uint32_t btf_id)
{
	struct btf *tools = btf__load_from_kernel_by_id(btf_id), *out = btf__new_empty();
	uint32_t first = 0;
	int ret = tools && out ? add_types(out, tools, &first) : -ENOMEM;

	if (ret > 0) {
		r->sub_type = (uint32_t)ret;
		/* Type 0 is void in both. */
		r->main_type = first + r->main_in_prog - 1;
		ret = btf__load_into_kernel(out);
	}
	if (!ret) {
		r->btf_fd = dup(btf__fd(out));
		ret = r->btf_fd < 0 ? -errno : 0;
	}
	btf__free(tools);
	btf__free(out);
	return ret;
}

int replace__open(struct khalf_replaced *r, uint32_t prog_id)
{
	uint32_t btf_id = 0;
	int err;

	*r = (struct khalf_replaced){.prog_fd = bpf_prog_get_fd_by_id(prog_id), .btf_fd = -1};
	if (r->prog_fd < 0)
		return -errno;
	err = read_info(r->prog_fd, &btf_id, &r->main_in_prog);
	if (!err)
		err = load_types(r, btf_id);
	if (err)
		replace__close(r);
	return err;
}

void replace__close(struct khalf_replaced *r)
{
	if (r->prog_fd >= 0)
		close(r->prog_fd);
	if (r->btf_fd >= 0)
		close(r->btf_fd);
	r->prog_fd = r->btf_fd = -1;
}

int replace__attach(int replacing_fd, const struct khalf_replaced *r)
{
	LIBBPF_OPTS(bpf_link_create_opts, opts, .target_btf_id = r->main_in_prog);
	int fd = bpf_link_create(replacing_fd, r->prog_fd, 0, &opts);

	return fd < 0 ? -errno : fd;
}
