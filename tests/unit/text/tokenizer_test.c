#include "goldens.h"

static struct family open_fixture(const char *name)
{
    struct family family = {.name = name};
    struct err err = {0};
    char path[512];

    snprintf(path, sizeof path, FIXTURES "/tokenizers/%s.json", name);
    family.tok = tokenizer_open(path, &err);
    assert_ok(family.tok, err);
    family.scratch = tokenizer_scratch_new(family.tok);
    return family;
}

static void every_fixture_gives_what_the_reference_gave(void **state)
{
    static const char *const names[] = {
        "roberta",        "qwen2_added",  "llama3_ignore_merges", "tekken",         "o200k",          "deepseek",
        "smollm",         "digits_punctuation", "regex_previous", "regex_next",     "regex_contiguous", "regex_invert",
        "spm_legacy",     "spm_first",    "spm_always_unk",       "spm_never_fuse", "gemma",          "bert"};
    struct arena arena = {0};
    struct err err = {0};
    struct str text;
    size_t checked = 0, lines = 0;

    assert_ok(file_read(&arena, FIXTURES "/tokenizers/cases.jsonl", 1 << 20, &text, &err), err);
    for (size_t i = 0; i < text.len; i++)
        lines += text.at[i] == '\n';
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct family family = open_fixture(names[i]);

        checked += check_records(&family, text, true);
        close_family(&family);
    }
    print_message("tokenizer fixtures: %zu identical of %zu\n", checked, lines);
    assert_int_equal(checked, lines);
    arena_deinit(&arena);
}

#define MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"

static const struct refusal {
    const char *json;
    enum err_code code;
    const char *says;
} refusals[] = {
    {"", ERR_INPUT, "tokenizer.json"},
    {"[]", ERR_INPUT, "model"},
    {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", ERR_UNSUPPORTED, "Unigram"},
    {"{\"model\":{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}}", ERR_INPUT, "vocab"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"b\":2147483647},\"merges\":[]}}", ERR_LIMIT, "no id"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"b\":4},\"merges\":[]}}", ERR_LIMIT, "no id"},
    {"{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", ERR_LIMIT, "no id"},
    {"{\"model\":{\"vocab\":{\"a\":0.5},\"merges\":[]}}", ERR_LIMIT, "no id"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", ERR_INPUT, "two tokens"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}", ERR_INPUT, "stands twice"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}}", ERR_INPUT, "not in the vocabulary"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", ERR_INPUT, "not a pair"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", ERR_INPUT, "not a pair"},
    {"{\"model\":{\"vocab\":{\"a\":0}}}", ERR_INPUT, "merges"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"?\"}}", ERR_INPUT, "unk_token"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}}", ERR_UNSUPPORTED, "dropout"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}", ERR_UNSUPPORTED,
     "end_of_word_suffix"},
    {"{\"normalizer\":{\"type\":\"Precompiled\"}," MODEL "}", ERR_UNSUPPORTED, "normalizer Precompiled"},
    {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{},\"content\":\"\"}," MODEL "}", ERR_UNSUPPORTED, "Replace"},
    {"{\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}," MODEL "}", ERR_UNSUPPORTED, "pre-tokenizer UnicodeScripts"},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}," MODEL "}",
     ERR_UNSUPPORTED, "does not compile"},
    {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Odd\"}," MODEL "}",
     ERR_UNSUPPORTED, "Odd"},
    {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"Digits\"}]},"
     MODEL "}",
     ERR_UNSUPPORTED, "after ByteLevel"},
    {"{\"post_processor\":{\"type\":\"Odd\"}," MODEL "}", ERR_UNSUPPORTED, "post-processor Odd"},
    {"{\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",9],\"sep\":[\"b\",1]}," MODEL "}", ERR_INPUT,
     "no token has"},
    {"{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}," MODEL "}", ERR_UNSUPPORTED, "exactly once"},
    {"{\"decoder\":{\"type\":\"WordPiece\"}," MODEL "}", ERR_UNSUPPORTED, "decoder WordPiece"},
    {"{\"added_tokens\":[{\"id\":7,\"content\":\"ab\"}]," MODEL "}", ERR_INPUT, "in the vocabulary"},
    {"{\"added_tokens\":[{\"id\":8,\"content\":\"c\"}]," MODEL "}", ERR_LIMIT, "no id"},
    {"{\"added_tokens\":[{\"id\":3}]," MODEL "}", ERR_INPUT, "no content"},
};

static void what_is_wrong_or_unknown_is_refused_by_name(void **state)
{
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        struct err err = {0};

        assert_null(tokenizer_parse(str_of(refusals[i].json), STR_NONE, &err));
        if (err.code != refusals[i].code || !strstr(err.text, refusals[i].says))
            fail_msg("%s\ngave %s \"%s\", expected %s \"…%s…\"", refusals[i].json, err_code_name(err.code), err.text,
                     err_code_name(refusals[i].code), refusals[i].says);
    }
}

static void more_than_sixteen_stages_are_refused(void **state)
{
    struct strbuf json = {0};
    struct err err = {0};

    strbuf_add_text(&json, "{" MODEL ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[");
    for (int i = 0; i < 17; i++)
        strbuf_add_text(&json, i ? ",{\"type\":\"NFC\"}" : "{\"type\":\"NFC\"}");
    strbuf_add_text(&json, "]}}");
    assert_null(tokenizer_parse(strbuf_view(&json), STR_NONE, &err));
    assert_int_equal(err.code, ERR_LIMIT);
    strbuf_deinit(&json);
}

static void text_that_is_not_utf8_is_refused(void **state)
{
    struct family family = open_fixture("o200k");
    struct token_list list = {0};
    struct err err = {0};

    assert_false(tokenizer_encode(family.tok, family.scratch, STR("a\xff"), false, &list, &err));
    assert_int_equal(err.code, ERR_INPUT);
    token_list_deinit(&list);
    close_family(&family);
}

static void spans_of_a_byte_level_tokenizer_tile_the_text(void **state)
{
    struct family family = open_fixture("deepseek");
    struct str text = STR("The boat 12345 — grüßen 你好 👍🏽\r\n x");
    struct token_list list = {0};
    struct err err = {0};
    uint32_t at = 0;

    assert_ok(tokenizer_encode(family.tok, family.scratch, text, true, &list, &err), err);
    for (size_t i = 0; i < list.count; i++) {
        assert_int_equal(list.spans[i].start, at);
        at = list.spans[i].end;
    }
    assert_int_equal(at, text.len);
    token_list_deinit(&list);
    close_family(&family);
}

static void spans_lead_through_normalizers_to_the_original(void **state)
{
    /* "<s>" before, "▁the" for "the" without its inserted mark, " boat" with its space, "</s>" behind */
    struct family family = open_fixture("spm_legacy");
    struct str text = STR("the boat");
    struct token_list list = {0};
    struct err err = {0};
    struct token_span span = {0};

    assert_ok(tokenizer_encode(family.tok, family.scratch, text, true, &list, &err), err);
    assert_int_equal(list.spans[0].end, 0);
    assert_int_equal(list.spans[list.count - 1].start, text.len);
    for (size_t i = 1; i + 1 < list.count; i++) {
        struct str token = tokenizer_token_text(family.tok, list.ids[i]);
        struct str piece = str_slice(text, list.spans[i].start, list.spans[i].end);

        assert_int_equal(list.spans[i].start, span.end);
        span = list.spans[i];
        if (str_starts(token, STR("▁"))) {
            token = str_slice(token, 3, token.len);
            piece = str_starts(piece, STR(" ")) ? str_slice(piece, 1, piece.len) : piece;
        }
        assert_true(str_equal(token, piece));
    }
    assert_int_equal(span.end, text.len);
    token_list_deinit(&list);
    close_family(&family);
}

/* Encoding a long word must not cost its square. */
static void a_word_of_a_quarter_mebibyte_encodes(void **state)
{
    static const char *const names[] = {"o200k", "spm_legacy", "gemma", "regex_invert", "spm_never_fuse"};
    static const char *const units[] = {"a", "theboat", "\u0301", "\u2581", " ", "漢"};

    for (size_t n = 0; n < sizeof names / sizeof *names; n++)
        for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
            struct family family = open_fixture(names[n]);
            struct token_list list = {0};
            struct strbuf text = {0};
            struct err err = {0};

            while (text.len < 1 << 18)
                strbuf_add_text(&text, units[u]);
            assert_ok(tokenizer_encode(family.tok, family.scratch, strbuf_view(&text), false, &list, &err), err);
            check_spans(&list, strbuf_view(&text));
            strbuf_deinit(&text);
            token_list_deinit(&list);
            close_family(&family);
        }
}

/* Short words scan their pairs and long ones use a heap; both lengths are met here. */
static void long_words_merge_lowest_rank_first_and_leftmost(void **state)
{
    static const char json[] = "{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"aa\":2,\"aaaa\":3,\"ab\":4},"
                               "\"merges\":[\"a a\",\"aa aa\",\"a b\"]}}";
    struct err err = {0};
    struct tokenizer *tok = tokenizer_parse(STR(json), STR_NONE, &err);
    struct tokenizer_scratch *scratch;
    struct token_list list = {0};
    struct strbuf text = {0};

    assert_ok(tok, err);
    scratch = tokenizer_scratch_new(tok);
    for (size_t count = 1; count < 200; count++) {
        size_t want, i;

        strbuf_clear(&text);
        for (i = 0; i < count; i++)
            strbuf_add_char(&text, 'a');
        strbuf_add_char(&text, 'b');
        token_list_clear(&list);
        assert_ok(tokenizer_encode(tok, scratch, strbuf_view(&text), false, &list, &err), err);
        want = count / 4 + (count % 4) / 2 + 1; /* aaaa…, perhaps aa, then b or ab */
        assert_int_equal(list.count, want);
        assert_int_equal(list.ids[want - 1], count % 2 ? 4 : 1);
        for (i = 0; i < count / 4; i++)
            assert_int_equal(list.ids[i], 3);
    }
    strbuf_deinit(&text);
    token_list_deinit(&list);
    tokenizer_scratch_free(scratch);
    tokenizer_free(tok);
}

static void a_stream_holds_back_unfinished_characters(void **state)
{
    struct family family = open_fixture("deepseek");
    struct str text = STR("a👍b");
    struct tokenizer_stream stream;
    struct token_list list = {0};
    struct strbuf out = {0};
    struct err err = {0};

    assert_ok(tokenizer_encode(family.tok, family.scratch, text, false, &list, &err), err);
    tokenizer_stream_init(&stream, family.tok, true);
    for (size_t i = 0; i < list.count; i++) {
        tokenizer_stream_push(&stream, list.ids[i], &out);
        if (list.spans[i].end > 1 && list.spans[i].end < 5)
            assert_int_equal(out.len, 1);
    }
    assert_true(str_equal(strbuf_view(&out), text));
    strbuf_clear(&out);
    tokenizer_stream_init(&stream, family.tok, true);
    tokenizer_stream_push(&stream, list.ids[1], &out); /* the first byte of the thumb and no more */
    assert_int_equal(out.len, 0);
    tokenizer_stream_finish(&stream, &out);
    assert_string_equal(out.at, "\xef\xbf\xbd");
    strbuf_deinit(&out);
    token_list_deinit(&list);
    close_family(&family);
}

static void the_config_names_special_tokens_as_strings_or_objects(void **state)
{
    static const char json[] = "{\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"special\":true}]," MODEL "}";
    static const char config[] = "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"ab\"},\"pad_token\":null,"
                                 "\"unk_token\":\"?\",\"add_bos_token\":true}";
    struct err err = {0};
    struct tokenizer *tok = tokenizer_parse(STR(json), STR(config), &err);

    assert_ok(tok, err);
    assert_int_equal(tokenizer_special_id(tok, TOKENIZER_BOS), 3);
    assert_int_equal(tokenizer_special_id(tok, TOKENIZER_EOS), 2);
    assert_int_equal(tokenizer_special_id(tok, TOKENIZER_PAD), -1);
    assert_int_equal(tokenizer_special_id(tok, TOKENIZER_UNK), -1);
    assert_true(str_is(tokenizer_special_text(tok, TOKENIZER_UNK), "?"));
    assert_null(tokenizer_special_text(tok, TOKENIZER_PAD).at);
    assert_true(tokenizer_is_special(tok, 3));
    assert_false(tokenizer_is_special(tok, 2));
    assert_int_equal(tokenizer_id_limit(tok), 4);
    assert_int_equal(strlen(tokenizer_hash(tok)), 64);
    assert_null(tokenizer_token_text(tok, 4).at);
    tokenizer_free(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_fixture_gives_what_the_reference_gave),
        cmocka_unit_test(what_is_wrong_or_unknown_is_refused_by_name),
        cmocka_unit_test(more_than_sixteen_stages_are_refused),
        cmocka_unit_test(text_that_is_not_utf8_is_refused),
        cmocka_unit_test(spans_of_a_byte_level_tokenizer_tile_the_text),
        cmocka_unit_test(spans_lead_through_normalizers_to_the_original),
        cmocka_unit_test(a_word_of_a_quarter_mebibyte_encodes),
        cmocka_unit_test(long_words_merge_lowest_rank_first_and_leftmost),
        cmocka_unit_test(a_stream_holds_back_unfinished_characters),
        cmocka_unit_test(the_config_names_special_tokens_as_strings_or_objects),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
