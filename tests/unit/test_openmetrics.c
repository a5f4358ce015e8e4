/* SPDX-License-Identifier: MIT */
/* The text format of metrics, and the addresses at which they are served. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/metrics_http.h"
#include "daemon/openmetrics.h"
#include "daemon/utf8.h"

static FILE *out;
static char *text;
static size_t len;

static int begin(void **state)
{
	out = open_memstream(&text, &len);
	return !out;
}

static int end(void **state)
{
	free(text);
	text = NULL;
	return 0;
}

static void expect(const char *expected)
{
	fclose(out);
	assert_string_equal(text, expected);
}

static void families_and_samples(void **state)
{
	const struct om_label labels[] = {{"a", "x"}, {"b", ""}};

	om_family(out, "f", OM_GAUGE, NULL, "A \"help\"\nwith \\.");
	om_count(out, "f", OM_GAUGE, labels, 2, UINT64_MAX);
	om_family(out, "c_seconds", OM_COUNTER, "seconds", "C.");
	om_number(out, "c_seconds", OM_COUNTER, NULL, 0, 0.25);
	om_family(out, "i", OM_INFO, NULL, "I.");
	om_count(out, "i", OM_INFO, labels, 1, 1);
	om_end(out);
	expect("# TYPE f gauge\n# HELP f A \\\"help\\\"\\nwith \\\\.\nf{a=\"x\",b=\"\"} 18446744073709551615\n"
	       "# TYPE c_seconds counter\n# UNIT c_seconds seconds\n# HELP c_seconds C.\nc_seconds_total 0.25\n"
	       "# TYPE i info\n# HELP i I.\ni_info{a=\"x\"} 1\n"
	       "# EOF\n");
}

static void labels_are_escaped(void **state)
{
	const struct om_label labels[] = {{"a", "q\"b\\n\nz\xff"}};

	om_labels(out, labels, 1);
	expect("{a=\"q\\\"b\\\\n\\nz\xef\xbf\xbd\"}");
}

static void histograms_are_cumulative(void **state)
{
	struct histogram h = {0};
	const struct om_label labels[] = {{"to", "kernel"}};

	histogram__add(&h, 0.00005);
	histogram__add(&h, 0.5);
	histogram__add(&h, 0.5);
	histogram__add(&h, 100);
	om_histogram(out, "h_seconds", labels, 1, &h);
	fclose(out);
	assert_non_null(strstr(text, "h_seconds_bucket{to=\"kernel\",le=\"0.0001\"} 1\n"));
	assert_non_null(strstr(text, "h_seconds_bucket{to=\"kernel\",le=\"0.3\"} 1\n"));
	assert_non_null(strstr(text, "h_seconds_bucket{to=\"kernel\",le=\"1.0\"} 3\n"));
	assert_non_null(strstr(text, "h_seconds_bucket{to=\"kernel\",le=\"30.0\"} 3\n"));
	assert_non_null(strstr(text, "h_seconds_bucket{to=\"kernel\",le=\"+Inf\"} 4\n"));
	assert_non_null(strstr(text, "h_seconds_count{to=\"kernel\"} 4\nh_seconds_sum{to=\"kernel\"} 101.00005\n"));
}

static void addresses(void **state)
{
	static const struct {
		const char *text;
		bool good, loopback;
		int port;
	} cases[] = {
		{"127.0.0.1:9464", true, true, 9464},
		{"127.9.9.9:0", true, true, 0},
		{"0.0.0.0:80", true, false, 80},
		{"192.168.1.1:65535", true, false, 65535},
		{"[::1]:9464", true, true, 9464},
		{"[::ffff:127.0.0.1]:1", true, true, 1},
		{"[::]:1", true, false, 1},
		{"127.0.0.1", false, false, 0},
		{"127.0.0.1:", false, false, 0},
		{"127.0.0.1:65536", false, false, 0},
		{"127.0.0.1:-1", false, false, 0},
		{"127.0.0.1:1x", false, false, 0},
		{":1", false, false, 0},
		{"localhost:1", false, false, 0},
		{"::1:1", false, false, 0},
		{"[]:1", false, false, 0},
		{"[:1", false, false, 0},
		{"]:1", false, false, 0},
		{"", false, false, 0},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct sockaddr_storage a;
		bool loopback = false;

		assert_int_equal(metrics_address__read(cases[i].text, &a, &loopback), cases[i].good);
		if (!cases[i].good)
			continue;
		assert_int_equal(loopback, cases[i].loopback);
		assert_int_equal(ntohs(((struct sockaddr_in *)&a)->sin_port), cases[i].port);
	}
}

static void utf8_is_cut_between_characters(void **state)
{
	char small[4];

	assert_int_equal(utf8_clean("ab\xc3\xa9", small, sizeof(small)), 2);
	assert_string_equal(small, "ab");
	assert_int_equal(utf8_clean("a\xc3\xa9z", small, sizeof(small)), 3);
	assert_int_equal(utf8_clean("abcd", small, 1), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(families_and_samples, begin, end),
		cmocka_unit_test_setup_teardown(labels_are_escaped, begin, end),
		cmocka_unit_test_setup_teardown(histograms_are_cumulative, begin, end),
		cmocka_unit_test(addresses),
		cmocka_unit_test(utf8_is_cut_between_characters),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
