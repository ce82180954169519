#include "test.h"

#include "hub/cache.h"
#include "os/file.h"

#include <stdlib.h>
#include <string.h>

#define COMMIT "0123456789abcdef0123456789abcdef01234567"
#define OLDER  "0000000000000000000000000000000000000001"

struct fixture {
    char dir[64];
    struct arena arena;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    strcpy(f->dir, "/tmp/attune-cache-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    dir_remove(f->dir, NULL);
    arena_deinit(&f->arena);
    free(f);
    return 0;
}

/* A file of a snapshot, as another tool writes it where there are no links. */
static void put(struct fixture *f, const char *commit, const char *name, const char *text)
{
    const char *folder = hub_cache_snapshot(&f->arena, f->dir, "org/name", commit);
    struct err err = {0};

    assert_ok(dir_make(folder, &err) && file_swap(path_join(&f->arena, folder, name), str_of(text), &err), err);
}

static void a_model_is_found_when_all_that_its_index_names_is_there(void **state)
{
    struct fixture *f = *state;

    assert_null(hub_cache_find(&f->arena, f->dir, "org/name", NULL));
    put(f, COMMIT, "config.json", "{}");
    put(f, COMMIT, "model.safetensors.index.json",
        "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}");
    put(f, COMMIT, "1.safetensors", "");
    assert_null(hub_cache_find(&f->arena, f->dir, "org/name", NULL));
    put(f, COMMIT, "2.safetensors", "");
    assert_string_equal(hub_cache_find(&f->arena, f->dir, "org/name", NULL),
                        hub_cache_snapshot(&f->arena, f->dir, "org/name", COMMIT));
    assert_non_null(hub_cache_find(&f->arena, f->dir, "org/name", COMMIT));
    assert_null(hub_cache_find(&f->arena, f->dir, "org/name", "v1"));
    put(f, COMMIT, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"../../../1.safetensors\"}}");
    assert_null(hub_cache_find(&f->arena, f->dir, "org/name", NULL));
    put(f, COMMIT, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"\"}}");
    assert_null(hub_cache_find(&f->arena, f->dir, "org/name", NULL));
    put(f, COMMIT, "model.safetensors.index.json", "{\"weight_map\":{\"a\":7}}");
    assert_null(hub_cache_find(&f->arena, f->dir, "org/name", NULL));
}

static void an_adapter_is_whole_without_a_base(void **state)
{
    struct fixture *f = *state;
    const char *folder;

    put(f, COMMIT, "adapter_config.json", "{}");
    put(f, COMMIT, "adapter_model.safetensors", "");
    folder = hub_cache_find(&f->arena, f->dir, "org/name", NULL);
    assert_non_null(folder);
    assert_true(hub_cache_is_adapter(&f->arena, folder));
    assert_false(hub_cache_is_model(&f->arena, folder));
}

static void a_revision_leads_to_its_commit(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};

    put(f, COMMIT, "config.json", "{}");
    put(f, COMMIT, "model.safetensors", "");
    put(f, OLDER, "config.json", "{}");
    put(f, OLDER, "model.safetensors", "");
    assert_ok(hub_cache_set(&f->arena, f->dir, "org/name", "refs/pr/1", OLDER, &err), err);
    assert_string_equal(hub_cache_commit(&f->arena, f->dir, "org/name", "refs/pr/1"), OLDER);
    assert_string_equal(path_name(hub_cache_find(&f->arena, f->dir, "org/name", "refs/pr/1")), OLDER);
    assert_string_equal(path_name(hub_cache_find(&f->arena, f->dir, "org/name", NULL)), COMMIT); /* the last one */
    assert_ok(hub_cache_set(&f->arena, f->dir, "org/name", "main", OLDER, &err), err);
    assert_string_equal(path_name(hub_cache_find(&f->arena, f->dir, "org/name", NULL)), OLDER);
}

static void a_path_of_any_depth_leads_to_its_blob(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    struct str text;

    assert_ok(dir_make(arena_printf(&f->arena, "%s/models--org--name/blobs", f->dir), &err), err);
    assert_ok(file_swap(hub_cache_blob(&f->arena, f->dir, "org/name", COMMIT), STR("content"), &err), err);
    assert_ok(hub_cache_link(&f->arena, f->dir, "org/name", OLDER, "a", COMMIT, &err), err);
    assert_ok(hub_cache_link(&f->arena, f->dir, "org/name", OLDER, "sub/dir/a", COMMIT, &err), err);
    assert_ok(file_read(&f->arena,
                        path_join(&f->arena, hub_cache_snapshot(&f->arena, f->dir, "org/name", OLDER), "sub/dir/a"),
                        100, &text, &err),
              err);
    assert_string_equal(text.at, "content");
}

static bool count_models(void *context, const char *repo, const char *folder)
{
    assert_string_equal(repo, "org/name");
    ++*(int *)context;
    return true;
}

static void models_are_listed_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    int count = 0;

    put(f, COMMIT, "config.json", "{}");
    put(f, COMMIT, "model.safetensors", "");
    assert_ok(dir_make(path_join(&f->arena, f->dir, "datasets--a--b"), &err) &&
                  dir_make(path_join(&f->arena, f->dir, "models--x--..--y"), &err) &&
                  dir_make(path_join(&f->arena, f->dir, "models--half--one/snapshots/" COMMIT), &err),
              err);
    hub_cache_list(&f->arena, f->dir, count_models, &count);
    assert_int_equal(count, 1);
}

static void the_cache_is_where_the_environment_says(void **state)
{
    struct fixture *f = *state;

    unsetenv("HF_HUB_CACHE");
    unsetenv("HUGGINGFACE_HUB_CACHE");
    unsetenv("HF_HOME");
    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", "/h/u", 1);
    assert_string_equal(hub_cache_default(&f->arena), "/h/u/.cache/huggingface/hub");
    setenv("XDG_CACHE_HOME", "/xdg", 1);
    assert_string_equal(hub_cache_default(&f->arena), "/xdg/huggingface/hub");
    setenv("HF_HOME", "/hf", 1);
    assert_string_equal(hub_cache_default(&f->arena), "/hf/hub");
    setenv("HF_HUB_CACHE", "/cache", 1);
    assert_string_equal(hub_cache_default(&f->arena), "/cache");
}

int main(void)
{
#define CACHE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CACHE_TEST(a_model_is_found_when_all_that_its_index_names_is_there),
        CACHE_TEST(an_adapter_is_whole_without_a_base),
        CACHE_TEST(a_revision_leads_to_its_commit),
        CACHE_TEST(a_path_of_any_depth_leads_to_its_blob),
        CACHE_TEST(models_are_listed_and_nothing_else),
        CACHE_TEST(the_cache_is_where_the_environment_says),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
