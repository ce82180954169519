/* What a Hub answers, a kind by the first byte: whatever is accepted has names that stay below a folder and hashes that
 * can be names of blobs, and what is chosen of it is in it. */
#include "hub/listing.h"
#include "hub/name.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_listing(const struct hub_listing *listing)
{
    for (size_t i = 0; i < listing->count; i++) {
        const struct hub_file *file = &listing->at[i];
        struct str path = str_of(file->path), blob = str_of(file->blob);

        ASSERT(hub_name_is_path(path) && path.at[0] != '/' && str_find(path, STR(".."), 0) != 0 &&
               str_find(path, STR("/../"), 0) < 0);
        ASSERT(file->is_large ? hub_name_is_sha256(blob) : hub_name_is_commit(blob));
    }
}

static void try_listing(struct arena *arena, struct str text)
{
    struct hub_listing listing = {0};
    struct hub_choice choice;
    struct err err = {0};

    if (!hub_listing_add(arena, text, &listing, &err))
        return;
    check_listing(&listing);
    if (hub_choice_make(arena, &listing, &choice, &err))
        for (size_t i = 0; i < choice.count; i++)
            ASSERT(hub_listing_find(&listing, choice.at[i]->path));
}

static void try_index(struct arena *arena, struct str text)
{
    struct hub_file files[] = {{"a.safetensors", "", 1, true}, {"b/c.safetensors", "", 1, true}};
    const struct hub_listing listing = {files, 2, 2};
    struct hub_choice choice = {0};
    struct err err = {0};

    if (hub_choice_add_shards(arena, &listing, text, &choice, &err))
        ASSERT(choice.count == 1 || choice.count == 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = {(const char *)data + 1, size ? size - 1 : 0};
    struct arena arena = {0};
    struct err err = {0};
    const char *commit;

    if (size && data[0] == 'i' && (commit = hub_listing_commit(&arena, text, &err)))
        ASSERT(hub_name_is_commit(str_of(commit)));
    if (size && data[0] == 't')
        try_listing(&arena, text);
    if (size && data[0] == 'w')
        try_index(&arena, text);
    if (size && data[0] == 'l')
        hub_listing_next(&arena, text);
    arena_deinit(&arena);
    return 0;
}
