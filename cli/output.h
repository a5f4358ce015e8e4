/* SPDX-License-Identifier: MIT */
/*
 * output.h: how bpftime shows things to people and, with --json, to programs.
 */
#ifndef BPFTIME_CLI_OUTPUT_H
#define BPFTIME_CLI_OUTPUT_H

#include <stddef.h>
#include <stdio.h>
#include <json-c/json.h>

/* Members of an object, for showing: missing and null ones are "" and 0. The string lives as long as the object. */
const char *member_text(const json_object *o, const char *key);
int64_t member_number(const json_object *o, const char *key);
size_t member_length(const json_object *o, const char *key);
/* Element i of a member that is a list. */
json_object *member_element(const json_object *o, const char *key, size_t i);

/* JSON with line breaks, for --json; compact for lists that go on (`top`). */
void print_json(json_object *o);
void print_json_line(json_object *o);

/* Text that a process chose, on a terminal: what could control the terminal becomes '?'. */
void print_text(FILE *to, const char *text);

/* "/usr/bin/x:main", "/usr/bin/x:0x1234". */
void probe_place(const json_object *probe, char *out, size_t size);
/* "4 s", "3 min", "2 h", "5 days". */
void span(double seconds, char *out, size_t size);

/* A table whose columns are as wide as their widest cell. Cells are copied. */
struct table;
struct table *table__new(const char *const *headings, size_t n_columns);
/* Bit i: column i is right-aligned. */
void table__align_right(struct table *t, unsigned int columns);
void table__add(struct table *t, const char *const *cells);
void table__print(const struct table *t);
void table__free(struct table *t);

#endif
