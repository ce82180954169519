#include "fixture.h"
#include "model/safetensors.h"

/* A file: length, header, data of `bytes` bytes counting up. */
static struct str make_file(struct arena *arena, const char *header, size_t bytes)
{
    size_t len = strlen(header);
    char *at = arena_alloc(arena, 8 + len + bytes);

    for (int i = 0; i < 8; i++)
        at[i] = (char)(len >> (8 * i));
    memcpy(at + 8, header, len);
    for (size_t i = 0; i < bytes; i++)
        at[8 + len + i] = (char)i;
    return (struct str){at, 8 + len + bytes};
}

#define A(type, shape, begin, end)                                                                                     \
    "{\"a\":{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end "]}}"

static const struct {
    const char *header;
    size_t bytes;
    const char *rule; /* in the message; NULL: accepted */
} cases[] = {
    {A("F32", "[2]", "0", "8"), 8, NULL},
    {A("F32", "[]", "0", "4") "   ", 4, NULL},
    {A("F32", "[0,7]", "0", "0"), 0, NULL},
    {A("F8_E4M3", "[3]", "0", "3"), 3, NULL},
    {A("F4", "[4]", "0", "2"), 2, NULL},
    {"{}", 0, NULL},
    {"{\"__metadata__\":{\"format\":\"pt\",\"x\":\"y\"}}", 0, NULL},
    {"", 0, "must begin with {"},
    {" {}", 0, "must begin with {"},
    {"[]", 0, "must begin with {"},
    {"{}\n", 0, "must begin with {"},
    {"{\"a\":}", 0, "header"},
    {"{\"\xff\":1}", 0, "header"},
    {A("F31", "[2]", "0", "8"), 8, "dtype is not one"},
    {"{\"a\":{\"dtype\":1,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "dtype is not one"},
    {A("F32", "2", "0", "8"), 8, "shape must be a list"},
    {A("F32", "[-2]", "0", "8"), 8, "whole numbers"},
    {A("F32", "[2.0]", "0", "8"), 8, "whole numbers"},
    {A("F32", "[1,1,1,1,1,1,1,1,2]", "0", "8"), 8, "more than 8 dimensions"},
    {A("F32", "[4294967296,4294967296]", "0", "8"), 8, "product of the shape overflows"},
    {A("F64", "[4611686018427387904]", "0", "8"), 8, "shape and dtype overflows"},
    {A("F4", "[3]", "0", "2"), 2, "end at a byte"},
    {A("F32", "[3]", "0", "8"), 8, "do not give the bytes"},
    {A("F32", "[2]", "8", "0"), 8, "end before they begin"},
    {A("F32", "[2]", "-8", "0"), 8, "data_offsets must be"},
    {A("F32", "[2]", "0", "8,9"), 8, "data_offsets must be"},
    {A("F32", "[2]", "0", "18446744073709551616"), 8, "data_offsets must be"},
    {A("F32", "[3]", "0", "12"), 8, "reach beyond the file"},
    {A("F32", "[2]", "0", "8"), 9, "bytes behind the last"},
    {A("F32", "[1]", "4", "8"), 8, "hole"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_"
     "offsets\":[2,6]}}",
     6, "overlaps"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"b\":{\"dtype\":\"U8\",\"shape\":[1],\"data_"
     "offsets\":[2,3]}}",
     3, "hole"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_"
     "offsets\":[1,2]}}",
     2, "name occurs twice"},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":1}}", 1, "exactly"},
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "shape must be a list"},
    {"{\"a\":7}", 0, "exactly"},
    {"{\"__metadata__\":7}", 0, "object of strings"},
    {"{\"__metadata__\":{\"a\":7}}", 0, "strings only"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "occurs twice"},
};

static void each_rule_has_its_file(void **state)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct safetensors file;
        struct err err = {0};
        bool ok =
            safetensors_parse(&arena, make_file(&arena, cases[i].header, cases[i].bytes), "x.safetensors", &file, &err);

        if (!cases[i].rule && !ok)
            fail_msg("%s: %s", cases[i].header, err.text);
        if (cases[i].rule && (ok || !strstr(err.text, cases[i].rule) || !strstr(err.text, "x.safetensors")))
            fail_msg("%s: wanted \"%s\", got \"%s\"", cases[i].header, cases[i].rule, ok ? "accepted" : err.text);
        arena_deinit(&arena);
    }
}

static bool parse(struct arena *arena, struct str bytes, const char *rule)
{
    struct safetensors file;
    struct err err = {0};
    bool ok = safetensors_parse(arena, bytes, "x", &file, &err);

    return !ok && strstr(err.text, rule);
}

static void lengths_are_checked_against_file_and_limit(void **state)
{
    struct arena arena = {0};
    char bytes[16] = {0};

    assert_true(parse(&arena, (struct str){bytes, 7}, "at least 8 bytes"));
    bytes[0] = 9;
    assert_true(parse(&arena, (struct str){bytes, 16}, "longer than the file"));
    memset(bytes, 0xff, 8);
    assert_true(parse(&arena, (struct str){bytes, 16}, "longer than 100 MB"));
    arena_deinit(&arena);
}

static void limits_of_count_name_and_metadata_hold(void **state)
{
    struct arena arena = {0};
    struct strbuf buf = {0};

    strbuf_add_text(&buf, "{");
    for (int i = 0; i <= SAFETENSORS_COUNT_MAX; i++)
        strbuf_printf(&buf, "%s\"%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}", i ? "," : "", i);
    strbuf_add_text(&buf, "}");
    assert_true(parse(&arena, make_file(&arena, buf.at, 0), "more than 65,536"));
    strbuf_clear(&buf);
    strbuf_add_text(&buf, "{\"__metadata__\":{\"k\":\"");
    for (int i = 0; i < 1 << 20; i++)
        strbuf_add_char(&buf, 'x');
    strbuf_add_text(&buf, "\"}}");
    assert_true(parse(&arena, make_file(&arena, buf.at, 0), "longer than 1 MiB"));
    strbuf_clear(&buf);
    strbuf_add_text(&buf, "{\"");
    for (int i = 0; i < 513; i++)
        strbuf_add_char(&buf, 'x');
    strbuf_add_text(&buf, "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}");
    assert_true(parse(&arena, make_file(&arena, buf.at, 0), "longer than 512 bytes"));
    strbuf_clear(&buf);
    strbuf_add_text(&buf, "{\"a\":[1");
    for (int i = 0; i < 3 << 20; i++)
        strbuf_add_text(&buf, ",1");
    strbuf_add_text(&buf, "]}");
    assert_true(parse(&arena, make_file(&arena, buf.at, 0), "too many values"));
    strbuf_deinit(&buf);
    arena_deinit(&arena);
}

static void what_is_written_is_read(void **state)
{
    struct arena arena = {0};
    const char *path = path_join(&arena, fixture_folder(&arena), "t.safetensors");
    struct safetensors_entry entries[] = {{.name = "b", .type = DTYPE_BF16, .rank = 1, .shape = {3}},
                                          {.name = "z", .type = DTYPE_F32, .rank = 2, .shape = {1, 2}},
                                          {.name = "a", .type = DTYPE_F32, .rank = 0}};
    struct safetensors_writer writer;
    struct safetensors_set set;
    char sha256[65], expected[65];
    uint8_t digest[32];
    uint64_t bytes;
    struct err err;

    assert_ok(safetensors_write_begin(&writer, path, entries, 3, &err), err);
    assert_string_equal(entries[0].name, "a");
    assert_string_equal(entries[1].name, "z");
    assert_ok(safetensors_write(&writer, "0123", 4, &err) && safetensors_write(&writer, "456789ab", 8, &err) &&
                  safetensors_write(&writer, "cdefgh", 6, &err),
              err);
    assert_ok(safetensors_write_end(&writer, &bytes, sha256, &err), err);
    assert_ok(safetensors_set_open_file(&set, &arena, path, &err), err);
    assert_int_equal(set.count, 3);
    assert_memory_equal(safetensors_set_find(&set, "z")->data, "456789ab", 8);
    assert_int_equal(safetensors_set_find(&set, "b")->shape[0], 3);
    assert_null(safetensors_set_find(&set, "c"));
    assert_int_equal(set.file[0].bytes, bytes);
    sha256_of((struct str){set.file[0].data, set.file[0].bytes}, digest);
    hex_encode(digest, 32, expected);
    assert_string_equal(sha256, expected);
    assert_int_equal((bytes - 18) % 8, 0);
    safetensors_set_close(&set);
    arena_deinit(&arena);
}

/* One tensor of one byte for each letter of `names`. */
static void write_shard(struct arena *arena, const char *folder, const char *file, const char *names)
{
    struct safetensors_entry entries[4] = {0};
    struct safetensors_writer writer;
    int count = (int)strlen(names);
    struct err err;

    for (int i = 0; i < count; i++)
        entries[i] = (struct safetensors_entry){
            .name = arena_copy(arena, names + i, 1), .type = DTYPE_U8, .rank = 1, .shape = {1}};
    assert_ok(safetensors_write_begin(&writer, path_join(arena, folder, file), entries, count, &err), err);
    assert_ok(safetensors_write(&writer, "xxxx", (uint64_t)count, &err), err);
    assert_ok(safetensors_write_end(&writer, NULL, NULL, &err), err);
}

static void the_index_of_shards_is_checked(void **state)
{
    static const struct {
        const char *index, *rule;
    } indexes[] = {
        {"{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}", NULL},
        {"{\"weight_map\":{\"a\":\"2.safetensors\"}}", "is not in 2.safetensors"},
        {"{\"weight_map\":{\"b\":\"2.safetensors\",\"c\":\"3.safetensors\"}}", "two shards"},
        {"{\"weight_map\":{\"a\":\"../1.safetensors\"}}", "not the name of a shard"},
        {"{\"weight_map\":{\"a\":\"sub/1.safetensors\"}}", "not the name of a shard"},
        {"{\"weight_map\":{\"a\":\"..\"}}", "not the name of a shard"},
        {"{\"weight_map\":{\"a\":\"1.bin\"}}", "not the name of a shard"},
        {"{\"weight_map\":{\"a\":7}}", "not the name of a shard"},
        {"{\"weight_map\":{}}", "no weight_map"},
        {"{}", "no weight_map"},
        {"[", "index.json"},
    };
    struct arena arena = {0};
    const char *folder = fixture_folder(&arena);

    write_shard(&arena, folder, "1.safetensors", "a");
    write_shard(&arena, folder, "2.safetensors", "b");
    write_shard(&arena, folder, "3.safetensors", "bc");
    for (size_t i = 0; i < sizeof indexes / sizeof *indexes; i++) {
        struct safetensors_set set;
        struct err err = {0};
        bool ok;
        fixture_write(&arena, folder, "model.safetensors.index.json", indexes[i].index);
        ok = safetensors_set_open(&set, &arena, folder, &err);
        if (ok == (indexes[i].rule != NULL) || (indexes[i].rule && !strstr(err.text, indexes[i].rule)))
            fail_msg("%s: %s", indexes[i].index, ok ? "accepted" : err.text);
        if (ok)
            assert_int_equal(set.count, 2);
        if (ok)
            safetensors_set_close(&set);
    }
    arena_deinit(&arena);
}

static void a_folder_without_weights_says_what_is_read(void **state)
{
    struct arena arena = {0};
    struct safetensors_set set;
    struct err err = {0};

    assert_false(safetensors_set_open(&set, &arena, fixture_folder(&arena), &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_rule_has_its_file),
        cmocka_unit_test(lengths_are_checked_against_file_and_limit),
        cmocka_unit_test(limits_of_count_name_and_metadata_hold),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(the_index_of_shards_is_checked),
        cmocka_unit_test(a_folder_without_weights_says_what_is_read),
    };
    return cmocka_run_group_tests(tests, NULL, fixture_clean);
}
