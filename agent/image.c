// SPDX-License-Identifier: MIT
/* image.c: the agent's code as a sealed memfd, one for the whole host. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <Zydis/Zydis.h>

#include "adopt.h"
#include "exec_memfd.h"
#include "target.h"

static const unsigned char image_bin[] __attribute__((aligned(64))) = {
#include "agent/image.bin.inc"
};

struct agent_image {
	int fd;
	struct agent_image_hdr hdr;
};

int agent_code_memfd(const char *name, const void *code, size_t size)
{
	int fd = exec_memfd(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	const char *at = code;
	int err;

	if (fd < 0)
		return -errno;
	for (size_t left = size; left;) {
		ssize_t n = write(fd, at, left);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			goto err_close;
		at += n;
		left -= n;
	}
	if (ftruncate(fd, (size + 4095) & ~4095ul) || fchmod(fd, 0555) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		goto err_close;
	return fd;
err_close:
	err = -errno;
	close(fd);
	return err;
}

int agent_image__new(struct agent_image **out, struct agent_error *err)
{
	struct agent_image *img = calloc(1, sizeof(*img));

	if (!img)
		return agent_fail(err, -ENOMEM, "out of memory");
	memcpy(&img->hdr, image_bin, sizeof(img->hdr));
	if (img->hdr.magic != AGENT_IMAGE_MAGIC || img->hdr.version != AGENT_ABI_VERSION) {
		free(img);
		return agent_fail(err, -EINVAL, "the agent image is of another version than the daemon");
	}
	img->fd = agent_code_memfd("bpftime-agent", image_bin, sizeof(image_bin));
	if (img->fd < 0) {
		int rc = img->fd;

		free(img);
		return agent_fail(err, rc, "the agent image cannot be put into memory: %s", strerror(-rc));
	}
	*out = img;
	return 0;
}

/* A target can have mapped anything there: what is sealed and of the same bytes and inode is ours. */
static bool is_our_image(int fd, uint64_t ino)
{
	unsigned char bytes[4096];
	struct stat st;

	if (fstat(fd, &st) || st.st_ino != ino || st.st_size != (off_t)sizeof(image_bin) ||
	    (fcntl(fd, F_GET_SEALS) & (F_SEAL_WRITE | F_SEAL_SHRINK)) != (F_SEAL_WRITE | F_SEAL_SHRINK))
		return false;
	for (size_t at = 0; at < sizeof(image_bin); at += sizeof(bytes))
		if (pread(fd, bytes, sizeof(bytes), (off_t)at) != (ssize_t)sizeof(bytes) ||
		    memcmp(bytes, image_bin + at, sizeof(bytes)))
			return false;
	return true;
}

int agent_image__of(struct agent_image **out, int fd, uint64_t ino, struct agent_error *err)
{
	struct agent_image *img = is_our_image(fd, ino) ? calloc(1, sizeof(*img)) : NULL;

	if (!img) {
		close(fd);
		return agent_fail(err, -ESTALE, "the agent's code is not the one that this bpftimed has");
	}
	img->fd = fd;
	memcpy(&img->hdr, image_bin, sizeof(img->hdr));
	*out = img;
	return 0;
}

uint64_t agent_image__ino(const struct agent_image *img)
{
	struct stat st;

	return fstat(img->fd, &st) ? 0 : st.st_ino;
}

int agent_image__fd(const struct agent_image *img)
{
	return img->fd;
}

uint64_t agent_image__service_offset(const struct agent_image *img)
{
	return img->hdr.service_nop;
}

const struct agent_image_hdr *agent_image__hdr(const struct agent_image *img)
{
	return &img->hdr;
}

uint64_t agent_image__escape_offset(const struct agent_image *img, unsigned int slot)
{
	return img->hdr.escapes + (uint64_t)slot * AGENT_ESCAPE_SIZE;
}

_Static_assert(sizeof(image_bin) == AGENT_IMAGE_SIZE, "the room is behind it");

size_t agent_image__size(void)
{
	return sizeof(image_bin);
}

void agent_image__free(struct agent_image *img)
{
	if (!img)
		return;
	close(img->fd);
	free(img);
}

bool agent_code_has_strings(const void *code, size_t size)
{
	ZydisDecodedInstruction insn;
	ZydisDecoder decoder;

	if (!ZYAN_SUCCESS(ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)))
		return true;
	for (size_t at = 0; at < size; at += insn.length) {
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&decoder, NULL, (const uint8_t *)code + at, size - at,
								&insn)))
			return true;
		if (insn.meta.category == ZYDIS_CATEGORY_STRINGOP || insn.meta.category == ZYDIS_CATEGORY_IOSTRINGOP)
			return true;
	}
	return false;
}
