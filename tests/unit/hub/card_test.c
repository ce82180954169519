#include "test.h"

#include "hub/card.h"

#include <string.h>

static void a_licence_is_read_from_the_head_of_a_card_and_nowhere_else(void **state)
{
    static const struct {
        const char *text, *licence;
    } cases[] = {
        {"---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"},
        {"---\r\nlicense:   \"llama3.1\" \r\n---\r\n", "llama3.1"},
        {"---\nlicense: 'mit'\n", "mit"},
        {"---\ntags:\n- license: mit\n---\nlicense: mit\n", NULL},
        {"# A model\nlicense: mit\n", NULL},
        {"---\nlicense: mit\\nbase_model: x\n---\n", NULL},
        {"---\nlicense: [mit, bsd]\n---\n", NULL},
        {"---\nlicense:\n---\n", NULL},
        {"---\nlicense: mit", NULL}, /* a line ends */
        {"---", NULL},
        {"", NULL},
    };
    struct arena arena = {0};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *licence = hub_card_licence(&arena, str_of(cases[i].text));

        assert_string_equal(licence ? licence : "none", cases[i].licence ? cases[i].licence : "none");
    }
    arena_deinit(&arena);
}

static char *write_card(struct arena *arena, struct hub_card card, const char *receipt)
{
    struct strbuf out = {0};
    char *text;

    card.receipt = receipt ? json_parse(arena, str_of(receipt), NULL, NULL) : NULL;
    hub_card_write(&card, arena, &out);
    text = str_copy(arena, strbuf_view(&out));
    strbuf_deinit(&out);
    return text;
}

static void the_head_says_what_the_hub_files_a_model_under(void **state)
{
    struct arena arena = {0};
    struct hub_card card = {.repo = "me/out", .base = "org/base-1", .base_licence = "mit", .is_adapter = true,
                            .method = "dpo"};

    assert_true(
        str_starts(str_of(write_card(&arena, card, NULL)),
                   STR("---\nbase_model: org/base-1\nlicense: mit\nlibrary_name: peft\npipeline_tag: "
                       "text-generation\ntags:\n- base_model:adapter:org/base-1\n- lora\n- dpo\n- transformers\n---\n\n"
                       "# out\n\nA LoRA adapter for org/base-1, trained with attune.\n")));
    card.is_adapter = false;
    card.base_licence = NULL;
    card.method = "supervised";
    assert_true(
        str_starts(str_of(write_card(&arena, card, NULL)),
                   STR("---\nbase_model: org/base-1\nbase_model_relation: finetune\nlibrary_name: transformers\n"
                       "pipeline_tag: text-generation\ntags:\n- base_model:finetune:org/base-1\n- sft\n---\n")));
    arena_deinit(&arena);
}

static void a_base_that_is_no_repository_is_not_named(void **state)
{
    static const char *const bases[] = {"tiny", "ft:org/base:me::1", "a/b/c", "org/x\nlicense: mit", NULL};
    struct arena arena = {0};

    for (size_t i = 0; i < sizeof bases / sizeof *bases; i++) {
        struct hub_card card = {.repo = "me/out", .base = bases[i], .method = "supervised"};

        assert_null(strstr(write_card(&arena, card, NULL), "base_model:"));
    }
    arena_deinit(&arena);
}

static void figures_of_the_receipt_are_rows_and_nothing_breaks_out_of_one(void **state)
{
    struct arena arena = {0};
    struct hub_card card = {.repo = "me/out", .method = "supervised"};
    const char *text = write_card(
        &arena, card,
        "{\"version\":\"1.2.3\",\"examples\":7,\"first_loss\":2.5,\"steps\":\"a | b\",\"quantization\":\"x\\ny\","
        "\"trainable_parameters\":[1],\"sha256\":{\"training_file\":\"abc\"},"
        "\"probes\":[{\"name\":\"packing\",\"verdict\":\"pass\"},{\"name\":\"a|b\",\"verdict\":\"pass\"}]}");

    assert_non_null(strstr(text, "trained with attune 1.2.3.\n"));
    assert_non_null(strstr(text, "\n| examples | 7 |\n"));
    assert_non_null(strstr(text, "\n| loss of the first step | 2.5 |\n"));
    assert_non_null(strstr(text, "\n| SHA-256 of the training file | abc |\n"));
    assert_non_null(strstr(text, "\n| check packing | pass |\n"));
    assert_null(strstr(text, "a | b"));
    assert_null(strstr(text, "a|b"));
    assert_null(strstr(text, "x\ny"));
    assert_null(strstr(text, "trainable"));
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_licence_is_read_from_the_head_of_a_card_and_nowhere_else),
        cmocka_unit_test(the_head_says_what_the_hub_files_a_model_under),
        cmocka_unit_test(a_base_that_is_no_repository_is_not_named),
        cmocka_unit_test(figures_of_the_receipt_are_rows_and_nothing_breaks_out_of_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
