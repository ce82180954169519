#include "test.h"

#include "http/multipart.h"

#include <string.h>

/* Parts as text: "name(filename)type=data;" */
struct record {
    struct strbuf text;
    size_t stop_at; /* refuse once so many bytes of data came; 0: never */
    size_t data_bytes, calls;
};

static bool on_part(void *context, const struct multipart_part *part, struct err *err)
{
    struct record *record = context;

    strbuf_add_str(&record->text, part->name);
    if (part->has_filename)
        strbuf_printf(&record->text, "(%.*s)", STR_ARG(part->filename));
    strbuf_add_str(&record->text, part->content_type);
    strbuf_add_char(&record->text, '=');
    return true;
}

static bool on_data(void *context, struct str bytes, struct err *err)
{
    struct record *record = context;

    record->data_bytes += bytes.len;
    record->calls++;
    if (record->text.len < 1 << 20)
        strbuf_add_str(&record->text, bytes);
    return !record->stop_at || record->data_bytes < record->stop_at || err_set(err, ERR_NO_SPACE, "full");
}

static bool on_part_end(void *context, struct err *err)
{
    strbuf_add_char(&((struct record *)context)->text, ';');
    return true;
}

static const struct multipart_sink sink = {on_part, on_data, on_part_end};

static bool read_all(struct record *record, const char *type, struct str body, size_t step, uint64_t seed,
                     struct err *err)
{
    struct multipart *reader = multipart_new(str_of(type), &sink, record, err);
    bool ok = reader != NULL;

    for (size_t at = 0, size; ok && at < body.len; at += size) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        size = step ? step : 1 + (size_t)(seed >> 33) % 50;
        ok = multipart_feed(reader, str_slice(body, at, at + size), err);
    }
    ok = ok && multipart_finish(reader, err);
    multipart_free(reader);
    return ok;
}

#define TYPE "multipart/form-data; boundary=B"
#define CD "Content-Disposition: form-data; "
#define FILE_PART "--B\r\n" CD "name=\"file\"; filename=\"a.jsonl\"\r\n\r\n"

static void good_bodies_give_their_parts_however_they_are_cut(void **state)
{
    static const struct {
        const char *type, *body, *parts;
    } cases[] = {
        {TYPE, "--B\r\n" CD "name=\"a\"\r\n\r\n1\r\n--B--\r\n", "a=1;"},
        {TYPE, "--B\r\n" CD "name=a\r\n\r\n\r\n--B--", "a=;"},
        {TYPE, FILE_PART "x\r\ny\r\n--B\r\n" CD "name=purpose\r\n\r\nfine-tune\r\n--B--\r\n",
         "file(a.jsonl)=x\r\ny;purpose=fine-tune;"},
        {TYPE, FILE_PART "\r\r\n\r\n\r\n--\r\n--C\r\n-B\r\r\n--B--\r\n",
         "file(a.jsonl)=\r\r\n\r\n\r\n--\r\n--C\r\n-B\r;"},
        {TYPE, "hello\r\n--B\r\n" CD "name=a\r\n\r\n1\r\n--B--\r\nbye", "a=1;"},
        {TYPE, "\r\n--B\r\n" CD "name=a\r\n\r\n1\r\n--B--\r\n", "a=1;"},
        {"Multipart/Form-Data ;charset=utf-8; BOUNDARY=\"a b\"", "--a b\r\n" CD "name=a\r\n\r\n1\r\n--a b--", "a=1;"},
        {TYPE,
         "--B\r\n"
         "content-TYPE: text/x; q=1\r\n"
         "CONTENT-disposition: form-data;filename=\"d; e\";name=\"f\"\r\n"
         "\r\n"
         "--B--\r\n"
         "--B--",
         "f(d; e)text/x; q=1=--B--;"},
        {TYPE, "--B\r\n" CD "name=f; filename=\"a\\\"b\\\\c\\d\"; filename*=UTF-8''z\r\n\r\n\r\n--B--",
         "f(a\"b\\c\\d)=;"},
        {TYPE,
         "--B\r\n" CD
         "name=f; filename=\"\"\r\nContent-Transfer-Encoding: BINARY\r\nContent-Length: 1\r\n\r\n1\r\n--B--",
         "f()=1;"},
        {TYPE, "--B--\r\n", ""},
    };
    struct err err;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t way = 0; way < 12; way++) {
            struct record record = {0};
            bool ok = read_all(&record, cases[i].type, str_of(cases[i].body), way == 0 ? 1 << 20 : way == 1, way, &err);
            if (!ok)
                fail_msg("case %zu, way %zu: %s", i, way, err.text);
            assert_string_equal(record.text.at ? record.text.at : "", cases[i].parts);
            strbuf_deinit(&record.text);
        }
}

static void bad_bodies_are_refused_however_they_are_cut(void **state)
{
    static const struct {
        const char *type, *body;
    } cases[] = {
        {"application/json", ""},
        {"multipart/form-data", ""},
        {"multipart/form-data; boundary=", ""},
        {"multipart/form-data; boundary=\"B", ""},
        {"multipart/form-data; boundary=\"B \"", ""},
        {"multipart/form-data; boundary=\"a@b\"", ""},
        {"multipart/form-data; boundary=B; boundary=B", ""},
        {"multipart/form-data; boundary*=B", ""},
        {"multipart/form-data; boundary=B, text/plain", ""},
        {TYPE, ""},
        {TYPE, "--B"},
        {TYPE, "--b\r\n\r\n--b--"},
        {TYPE, "--BX\r\n"},
        {TYPE, "--B junk\r\n"},
        {TYPE, "--B-\r\n"},
        {TYPE, FILE_PART "x"},
        {TYPE, FILE_PART "x--B--"},
        {TYPE, FILE_PART "x\n--B--"},
        {TYPE, FILE_PART "x\r\n--B\r\n"},
        {TYPE, "--B\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\nA: b\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\n" CD "\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\n" CD "name=\"\"\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\n" CD "name=a; name=b\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\n" CD "name=a; filename=a; filename=b\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\n" CD "name=\"a\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\n" CD "name=\"a\"b\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\n" CD "name=\"\377\"\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\n" CD "name=a\r\n" CD "name=a\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\nContent-Disposition: attachment; name=a\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\n" CD "name=a;\r\n filename=b\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\n" CD "name=a\nX: b\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\n" CD "name=a\rX: b\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\n" CD "name=a\r\nX : b\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\n" CD "name=a\r\nX\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\n" CD "name=a\r\nContent-Type: multipart/mixed; boundary=C\r\n\r\n1\r\n--B--"},
        {TYPE, "--B\r\n" CD "name=a\r\nContent-Transfer-Encoding: base64\r\n\r\n1\r\n--B--"},
    };
    struct err err;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t way = 0; way < 6; way++) {
            struct record record = {0};
            if (read_all(&record, cases[i].type, str_of(cases[i].body), way == 0 ? 1 << 20 : way == 1, way, &err))
                fail_msg("case %zu, way %zu is accepted: %s", i, way, record.text.at);
            strbuf_deinit(&record.text);
        }
}

static void add_many(struct strbuf *out, const char *text, int count)
{
    for (int i = 0; i < count; i++)
        strbuf_add_text(out, text);
}

static void limits_hold_at_their_edge(void **state)
{
    static const struct {
        const char *before, *repeated, *after;
        int allowed;
    } cases[] = {
        {"", "--B\r\n" CD "name=a\r\n\r\n1\r\n", "--B--", 16},
        {"--B\r\n" CD "name=a\r\n", "X: 1\r\n", "\r\n1\r\n--B--", 7},
        {"--B\r\n" CD "name=a\r\nX:", "v", "\r\n\r\n1\r\n--B--", 4096 - 46},
        {"", "p", "\r\n--B--", 4096},
        {"--B--", "e", "", 4096},
    };
    struct strbuf body = {0};
    struct err err;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int over = 0; over < 2; over++) {
            struct record record = {0};
            strbuf_clear(&body);
            strbuf_add_text(&body, cases[i].before);
            add_many(&body, cases[i].repeated, cases[i].allowed + over);
            strbuf_add_text(&body, cases[i].after);
            if (read_all(&record, TYPE, strbuf_view(&body), 1000, 0, &err) == (over == 1))
                fail_msg("case %zu with %d more than allowed: %s", i, over, err.text);
            if (over)
                assert_int_equal(err.code, ERR_LIMIT);
            strbuf_deinit(&record.text);
        }
    strbuf_deinit(&body);
}

static void boundaries_have_1_to_70_characters(void **state)
{
    char type[256], name[128];
    struct record record = {0};
    struct multipart *reader;
    struct err err;

    for (int len = 69; len <= 72; len++) {
        memset(name, '7', (size_t)len);
        snprintf(type, sizeof type, "multipart/form-data; boundary=%.*s", len, name);
        reader = multipart_new(str_of(type), &sink, &record, &err);
        assert_int_equal(reader != NULL, len <= 70);
        multipart_free(reader);
    }
}

static void an_error_of_the_sink_stops_the_reader(void **state)
{
    struct record record = {.stop_at = 3};
    struct err err;

    assert_false(read_all(&record, TYPE, STR(FILE_PART "xxxxx\r\n--B--"), 1, 0, &err));
    assert_int_equal(err.code, ERR_NO_SPACE);
    assert_int_equal(record.data_bytes, 3);
    strbuf_deinit(&record.text);
}

/* Delimiters' beginnings all the way: the data comes in few pieces, so a sink is not called per line. */
static void runs_of_near_delimiters_stay_one_piece(void **state)
{
    struct record record = {0};
    struct strbuf body = {0};
    struct err err;

    strbuf_add_text(&body, FILE_PART);
    add_many(&body, "\r\n--", 20000);
    strbuf_add_text(&body, "\r\n--B--");
    assert_ok(read_all(&record, TYPE, strbuf_view(&body), 1 << 20, 0, &err), err);
    assert_int_equal(record.data_bytes, 80000);
    assert_true(record.calls <= 2);
    strbuf_deinit(&record.text);
    strbuf_deinit(&body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_bodies_give_their_parts_however_they_are_cut),
        cmocka_unit_test(bad_bodies_are_refused_however_they_are_cut),
        cmocka_unit_test(limits_hold_at_their_edge),
        cmocka_unit_test(boundaries_have_1_to_70_characters),
        cmocka_unit_test(an_error_of_the_sink_stops_the_reader),
        cmocka_unit_test(runs_of_near_delimiters_stay_one_piece),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
