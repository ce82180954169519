#include "test.h"

#include "job/devices.h"

static struct job_devices two_gpus(void)
{
    struct job_devices devices = {.count = 2};

    strcpy(devices.gpu[0].name, "cuda:0");
    strcpy(devices.gpu[1].name, "cuda:1");
    return devices;
}

static void names_of_devices_are_these_and_no_others(void **state)
{
    static const char *const names[] = {"cpu", "cuda", "cuda:0", "cuda:63"};
    static const char *const others[] = {
        "", "gpu", "CPU", "cuda:", "cuda:64", "cuda:1x", "cuda:-1", "cuda: 1", "cuda:0000000000000001", "auto"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        assert_true(device_name_is_text(str_of(names[i])));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_false(device_name_is_text(str_of(others[i])));
}

static void an_operators_list_leaves_what_it_names(void **state)
{
    static const struct {
        const char *list;
        int count;
        bool has_cpu;
        const char *first;
    } cases[] = {{NULL, 2, true, "cuda:0"},         {"cpu", 0, true, NULL},
                 {"cuda", 2, false, "cuda:0"},      {"cuda:1", 1, false, "cuda:1"},
                 {"cpu,cuda:1", 1, true, "cuda:1"}, {"cuda:1, cuda:0", 2, false, "cuda:0"}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job_devices devices = two_gpus();
        struct err err = {0};
        bool has_cpu;
        assert_ok(devices_choose(&devices, cases[i].list, &has_cpu, &err), err);
        assert_int_equal(devices.count, cases[i].count);
        assert_int_equal(has_cpu, cases[i].has_cpu);
        assert_int_equal(devices.why_none[0] != 0, cases[i].count == 0);
        if (cases[i].first)
            assert_string_equal(devices.gpu[0].name, cases[i].first);
    }
}

static void a_list_that_names_what_is_not_there_is_refused(void **state)
{
    static const struct {
        const char *list, *text;
    } cases[] = {
        {"cuda:7", "no cuda:7"}, {"tpu", "'tpu' is not"}, {"", "empty"}, {"cpu,", NULL}, {"cpu,,cuda", "'' is not"}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct job_devices devices = two_gpus();
        struct err err = {0};
        bool has_cpu, ok = devices_choose(&devices, cases[i].list, &has_cpu, &err);
        assert_int_equal(ok, cases[i].text == NULL);
        if (cases[i].text)
            assert_non_null(strstr(err.text, cases[i].text));
    }
}

static void a_program_that_does_not_answer_is_a_machine_without_gpus(void **state)
{
    struct job_devices devices;

    devices_probe("/bin/false", &devices);
    assert_int_equal(devices.count, 0);
    assert_non_null(strstr(devices.why_none, "without an answer"));
    devices_probe("/nowhere/attune", &devices);
    assert_int_equal(devices.count, 0);
    assert_true(devices.why_none[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_devices_are_these_and_no_others),
        cmocka_unit_test(an_operators_list_leaves_what_it_names),
        cmocka_unit_test(a_list_that_names_what_is_not_there_is_refused),
        cmocka_unit_test(a_program_that_does_not_answer_is_a_machine_without_gpus),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
