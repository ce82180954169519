/* Command lines as people write them. */
#include "test.h"
#include "cli/options.h"

#include <string.h>
#include <unistd.h>

enum { WORDS_MAX = 8 };

struct parsed {
    int64_t batch_size;
    double rate;
    bool packing, lora, has_lora;
    const char *words[2];
    int word_count;
    char text[256]; /* the line, cut into words */
    struct err err;
};

static bool parse(struct parsed *p, const char *line)
{
    char *argv[WORDS_MAX] = {"jobs"};
    int argc = 1;
    const struct option list[] = {
        {NULL, OPTION_FLAG, NULL, NULL, "heading:", NULL},
        {"batch_size", OPTION_INT, &p->batch_size, "N", "rows", NULL},
        {"learning-rate", OPTION_FLOAT, &p->rate, "X", "rate", NULL},
        {"packing", OPTION_FLAG, &p->packing, NULL, "pack", NULL},
        {"lora", OPTION_FLAG, &p->lora, NULL, "adapter", &p->has_lora},
    };
    const struct options options = {.list = list, .count = sizeof list / sizeof *list, .positional_max = 2};

    *p = (struct parsed){.packing = true};
    snprintf(p->text, sizeof p->text, "%s", line);
    for (char *word = strtok(p->text, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    return options_parse(&options, argc, argv, p->words, &p->word_count, &p->err);
}

static void dashes_and_underscores_are_the_same(void **state)
{
    static const char *const lines[] = {"--batch_size 4 --learning_rate 0.5", "--batch-size 4 --learning-rate 0.5",
                                        "--batch_size=4 --learning_rate=0.5", "--batch-size=4 --learning-rate=0.5"};
    struct parsed p;

    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        assert_ok(parse(&p, lines[i]), p.err);
        assert_int_equal(p.batch_size, 4);
        assert_true(p.rate == 0.5);
    }
}

static void flags_are_set_and_cleared(void **state)
{
    struct parsed p;

    assert_ok(parse(&p, "--lora --no-packing"), p.err);
    assert_true(p.lora && p.has_lora && !p.packing);
    assert_ok(parse(&p, "--no-lora"), p.err);
    assert_true(!p.lora && p.has_lora && p.packing);
    assert_false(parse(&p, "--lora=yes"));
}

static void what_is_no_option_is_positional(void **state)
{
    struct parsed p;

    assert_ok(parse(&p, "get --lora -- --batch-size"), p.err);
    assert_int_equal(p.word_count, 2);
    assert_string_equal(p.words[0], "get");
    assert_string_equal(p.words[1], "--batch-size");
    assert_false(parse(&p, "one two three"));
}

static void errors_name_the_option(void **state)
{
    static const struct {
        const char *line, *part;
    } cases[] = {{"--batch 4", "unknown option --batch"},
                 {"--batchsize 4", "did you mean --batch-size?"},
                 {"--batch_siz 4", "did you mean --batch-size?"},
                 {"--batch_size_ 4", "unknown option --batch_size_"},
                 {"--batch_size many", "--batch-size takes an integer, not 'many'"},
                 {"--learning-rate", "--learning-rate needs a value"}};
    struct parsed p;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_false(parse(&p, cases[i].line));
        if (!strstr(p.err.text, cases[i].part))
            fail_msg("'%s' gives '%s', without '%s'", cases[i].line, p.err.text, cases[i].part);
    }
}

static void only_finite_numbers_are_numbers(void **state)
{
    static const char *const values[] = {"nan", "inf", "-infinity", "1e999", "x", ""};
    struct parsed p;
    char line[64];

    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        snprintf(line, sizeof line, "--learning-rate=%s", values[i]);
        assert_false(parse(&p, line));
        assert_non_null(strstr(p.err.text, "--learning-rate takes a number"));
    }
    assert_ok(parse(&p, "--learning-rate=-1e-3"), p.err);
    assert_true(p.rate == -1e-3);
}

/* What ran last: its name and the words that stood behind it. */
static char ran[64];

static bool run_list(void *context, const char *const *words, struct err *err)
{
    snprintf(ran, sizeof ran, "list %s", words[0] ? words[0] : "");
    return true;
}

static bool run_merge(void *context, const char *const *words, struct err *err)
{
    snprintf(ran, sizeof ran, "merge %s %s", words[0], words[1]);
    return strcmp(words[0], words[1]) != 0 || err_set(err, ERR_INPUT, "they are one");
}

static bool check_merge(const struct action *action, void *context, struct err *err)
{
    return action->run != run_merge || context || err_set(err, ERR_INPUT, "nowhere to go");
}

/* The status, and what stands on standard error. */
static int act(const struct options *options, const char *const given[3], void *context, char said[256])
{
    char *argv[5] = {"models"};
    int argc = 1, status, kept = dup(STDERR_FILENO);
    FILE *file = tmpfile();
    size_t count;

    for (int word = 0; word < 3 && given[word]; word++)
        argv[argc++] = (char *)(uintptr_t)given[word];
    ran[0] = '\0';
    dup2(fileno(file), STDERR_FILENO);
    status = options_act(options, argc, argv, context);
    fflush(stderr);
    dup2(kept, STDERR_FILENO);
    close(kept);
    rewind(file);
    count = fread(said, 1, 255, file);
    said[count] = '\0';
    fclose(file);
    return status;
}

static void the_first_word_names_an_action_with_what_it_wants(void **state)
{
    static const struct action actions[] = {{"list", NULL, "", run_list},
                                            {"merge", "BASE ADAPTER --out DIR", "", run_merge},
                                            {"all", "--yes", "", run_list}};
    static const struct {
        const char *given[3], *ran, *said;
        int status;
        bool has_place;
    } cases[] = {{{"list"}, "list ", "", 0, false},
                 {{"merge", "a", "b"}, "merge a b", "", 0, true},
                 {{"all"}, "list ", "", 0, false},
                 {{"merge", "a", "a"}, "merge a a", "attune models: they are one\n", 1, true},
                 {{"merge", "a", "b"}, "", "attune models: nowhere to go\n", 2, false},
                 {{NULL}, "", "an action is missing: list, merge or all", 2, false},
                 {{"lis"}, "", "unknown action 'lis': list, merge or all", 2, false},
                 {{"merge", "a"}, "", "merge needs BASE ADAPTER --out DIR", 2, true},
                 {{"list", "a"}, "", "unexpected argument 'a'", 2, false}};
    struct options options = {.actions = actions, .action_count = 3, .check = check_merge};
    char said[256];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(act(&options, cases[i].given, cases[i].has_place ? &options : NULL, said), cases[i].status);
        assert_string_equal(ran, cases[i].ran);
        if (!strstr(said, cases[i].said) || (cases[i].status == 0 && said[0]))
            fail_msg("'%s' gives '%s', without '%s'", cases[i].given[0], said, cases[i].said);
    }
    options.otherwise = "list";
    assert_int_equal(act(&options, (const char *const[3]){NULL}, NULL, said), 0);
    assert_string_equal(ran, "list ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_finite_numbers_are_numbers),
        cmocka_unit_test(dashes_and_underscores_are_the_same),
        cmocka_unit_test(flags_are_set_and_cleared),
        cmocka_unit_test(what_is_no_option_is_positional),
        cmocka_unit_test(errors_name_the_option),
        cmocka_unit_test(the_first_word_names_an_action_with_what_it_wants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
