#include "test.h"

#include "hub/listing.h"
#include "hub/name.h"

#include <string.h>

#define GIT  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define SHA  "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define FILE_OF(path) "{\"type\":\"file\",\"path\":\"" path "\",\"oid\":\"" GIT "\",\"size\":7}"

static void names_of_repositories_are_those_that_the_hub_takes(void **state)
{
    static const char *const good[] = {"gpt2", "org/name", "Org-1/Name_2.b", "a/b"},
                             *const bad[] = {"",       "/",      "org/",     "/name",     "a/b/c",
                                             "org/..", "../x",   "a--b/c",   "org/na me", "org/-x",
                                             "org/x.", ".org/x", "org/x\\y", "org/x?y",   "org/%2e%2e"};

    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(hub_name_is_repo(str_of(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (hub_name_is_repo(str_of(bad[i])))
            fail_msg("'%s' is taken", bad[i]);
    assert_false(hub_name_is_repo((struct str){"a\0b", 3}));
}

static void revisions_and_paths_stay_below_their_folder(void **state)
{
    static const char *const good[] = {"main", "refs/pr/1", "v1.0-rc_2+x", GIT},
                            *const bad[] = {"", "..", "a/../b", "/a", "a/", "a//b", ".hidden", "a/.b", "a b", "a%2Fb"};

    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(hub_name_is_revision(str_of(good[i])) && hub_name_is_path(str_of(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (hub_name_is_revision(str_of(bad[i])))
            fail_msg("'%s' is taken", bad[i]);
    assert_true(hub_name_is_path(STR("sub dir/a (1).json")));
    assert_false(hub_name_is_path(STR("a\\b")));
    assert_false(hub_name_is_path(STR("a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q")));
    assert_false(hub_name_is_commit(STR("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")));
}

static void names_become_parts_of_paths_and_urls(void **state)
{
    struct arena arena = {0};

    assert_string_equal(hub_name_folder(&arena, "org/name"), "models--org--name");
    assert_string_equal(hub_name_folder(&arena, "gpt2"), "models--gpt2");
    assert_string_equal(hub_name_encode(&arena, STR("refs/pr/1"), false), "refs%2Fpr%2F1");
    assert_string_equal(hub_name_encode(&arena, STR("sub/a b%.json"), true), "sub/a%20b%25.json");
    arena_deinit(&arena);
}

static void the_next_page_is_the_one_that_the_header_calls_so(void **state)
{
    struct arena arena = {0};

    assert_string_equal(hub_listing_next(&arena, STR("<https://h/a?b=<>; rel=\"last\", <https://h/c>; rel=\"next\"")),
                        "https://h/c");
    assert_null(hub_listing_next(&arena, STR("<https://h/a>; rel=\"first\"")));
    assert_null(hub_listing_next(&arena, STR("")));
    assert_null(hub_listing_next(&arena, STR("><")));
    arena_deinit(&arena);
}

static bool chooses(struct arena *arena, const char *text, struct hub_choice *choice, struct err *err)
{
    struct hub_listing *listing = arena_new(arena, struct hub_listing);

    return hub_listing_add(arena, str_of(text), listing, err) && hub_choice_make(arena, listing, choice, err);
}

static void of_a_repository_only_what_is_needed_is_chosen(void **state)
{
    static const char text[] =
        "[" FILE_OF("config.json") "," FILE_OF("model.safetensors") "," FILE_OF("model.safetensors.index.json") ","
        FILE_OF("pytorch_model.bin") "," FILE_OF("code.py") "," FILE_OF("tokenizer.json") "," FILE_OF("../config.json")
        ",{\"type\":\"directory\",\"path\":\"x\",\"oid\":\"" GIT "\",\"size\":0}]";
    struct arena arena = {0};
    struct hub_choice choice;
    struct err err = {0};

    assert_ok(chooses(&arena, text, &choice, &err), err);
    assert_int_equal(choice.count, 3);
    assert_null(choice.index);
    assert_false(choice.is_adapter);
    assert_string_equal(choice.at[1]->path, "model.safetensors");
    assert_ok(
        chooses(&arena, "[" FILE_OF("adapter_config.json") "," FILE_OF("adapter_model.safetensors") "]", &choice, &err),
        err);
    assert_true(choice.is_adapter && choice.count == 2);
    assert_false(chooses(&arena, "[" FILE_OF("config.json") "," FILE_OF("a.bin") "]", &choice, &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
    arena_deinit(&arena);
}

static void large_files_are_known_by_their_sha_256(void **state)
{
    static const char text[] =
        "[{\"type\":\"file\",\"path\":\"a\",\"oid\":\"" GIT "\",\"size\":134,\"lfs\":{\"oid\":\"" SHA
        "\",\"size\":5000000000,\"pointerSize\":134}}]";
    struct arena arena = {0};
    struct hub_listing listing = {0};
    struct err err = {0};

    assert_ok(hub_listing_add(&arena, str_of(text), &listing, &err), err);
    assert_true(listing.at[0].is_large && listing.at[0].bytes == 5000000000);
    assert_string_equal(listing.at[0].blob, SHA);
    arena_deinit(&arena);
}

static void a_list_without_end_is_refused(void **state)
{
    struct arena arena = {0};
    struct hub_listing listing = {0};
    struct strbuf text = {0};
    struct err err = {0};

    strbuf_add_text(&text, "[" FILE_OF("a"));
    for (int i = 0; i < HUB_FILES_MAX; i++)
        strbuf_add_text(&text, "," FILE_OF("a"));
    strbuf_add_text(&text, "]");
    assert_false(hub_listing_add(&arena, strbuf_view(&text), &listing, &err));
    assert_int_equal(err.code, ERR_LIMIT);
    strbuf_deinit(&text);
    arena_deinit(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_repositories_are_those_that_the_hub_takes),
        cmocka_unit_test(revisions_and_paths_stay_below_their_folder),
        cmocka_unit_test(names_become_parts_of_paths_and_urls),
        cmocka_unit_test(the_next_page_is_the_one_that_the_header_calls_so),
        cmocka_unit_test(of_a_repository_only_what_is_needed_is_chosen),
        cmocka_unit_test(large_files_are_known_by_their_sha_256),
        cmocka_unit_test(a_list_without_end_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
