// SPDX-License-Identifier: Apache-2.0

/*
 * A plugin for qemu's TCG that counts the guest's instructions by block between two marks, which
 * load.c makes: no-operation instructions of eight bytes that nothing else uses. When the guest
 * ends it writes a line for each block and pair of marks: the number of the pair, the block's
 * address, how often it was executed, and how many instructions it has.
 *
 * Interface: version 1 of qemu's plugin API (include/qemu/qemu-plugin.h), which Debian does not
 * package; the declarations are those of the functions used here.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);

#define EXPORT __attribute__((visibility("default")))

EXPORT int qemu_plugin_version = 1;

enum { PAIRS = 256, MARK_LEN = 8 };

static const uint8_t mark_begin[MARK_LEN] = {0x0f, 0x1f, 0x84, 0, 0xef, 0xbe, 0xad, 0x0d};
static const uint8_t mark_end[MARK_LEN] = {0x0f, 0x1f, 0x84, 0, 0xee, 0xbe, 0xad, 0x0d};

struct block {
	struct block *next;
	uint64_t address, instructions;
	uint64_t runs[PAIRS];
};

static struct block *blocks;
static int pair = -1, pairs; /* the current pair of marks, and how many there were */
static const char *path;

static void block_runs(unsigned cpu, void *arg)
{
	struct block *b = arg;

	(void)cpu;
	if (pair >= 0)
		b->runs[pair]++;
}

static void begin(unsigned cpu, void *arg)
{
	(void)cpu;
	(void)arg;
	pair = pairs < PAIRS ? pairs++ : -1;
}

static void end(unsigned cpu, void *arg)
{
	(void)cpu;
	(void)arg;
	pair = -1;
}

static void translated(plugin_id id, struct qemu_plugin_tb *tb)
{
	struct block *b = calloc(1, sizeof(*b));
	size_t n = qemu_plugin_tb_n_insns(tb);

	(void)id;
	if (!b) {
		perror("plugin: calloc");
		exit(1);
	}
	*b = (struct block){.next = blocks, .address = qemu_plugin_tb_vaddr(tb), .instructions = n};
	blocks = b;
	for (size_t i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		const void *data = qemu_plugin_insn_data(insn);

		if (qemu_plugin_insn_size(insn) != MARK_LEN)
			continue;
		if (!memcmp(data, mark_begin, MARK_LEN))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, begin, 0, NULL);
		else if (!memcmp(data, mark_end, MARK_LEN))
			qemu_plugin_register_vcpu_insn_exec_cb(insn, end, 0, NULL);
	}
	qemu_plugin_register_vcpu_tb_exec_cb(tb, block_runs, 0, b);
}

static void write_counts(plugin_id id, void *arg)
{
	FILE *f = fopen(path, "w");

	(void)id;
	(void)arg;
	if (!f) {
		perror(path);
		exit(1);
	}
	for (struct block *b = blocks; b; b = b->next)
		for (int i = 0; i < pairs; i++)
			if (b->runs[i])
				fprintf(f, "%d %" PRIx64 " %" PRIu64 " %" PRIu64 "\n", i,
					b->address, b->runs[i], b->instructions);
	if (fclose(f)) {
		perror(path);
		exit(1);
	}
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++)
		if (!strncmp(argv[i], "out=", 4))
			path = strdup(argv[i] + 4);
	if (!path) {
		fprintf(stderr, "plugin: out=FILE is missing\n");
		return 1;
	}
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
	qemu_plugin_register_atexit_cb(id, write_counts, NULL);
	return 0;
}
