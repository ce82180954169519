#include "data/dataset.h"

#include <stdio.h>
#include <string.h>

const char *over_length_name(enum over_length policy)
{
    static const char *const names[] = {
#define OVER_LENGTH_NAME(name, text) text,
        OVER_LENGTH_POLICIES(OVER_LENGTH_NAME)
#undef OVER_LENGTH_NAME
    };
    return names[policy];
}

bool over_length_find(struct str name, enum over_length *policy)
{
    for (int i = 0; i < OVER_LENGTH_COUNT; i++) {
        if (str_is(name, over_length_name((enum over_length)i))) {
            *policy = (enum over_length)i;
            return true;
        }
    }
    return false;
}

static void write_named(struct json_writer *w, const char *key, const uint64_t *lines, uint64_t count)
{
    json_write_key(w, key);
    json_write_begin_array(w);
    for (uint64_t i = 0; i < count && i < DATASET_LINES_NAMED; i++)
        json_write_integer(w, (int64_t)lines[i]);
    json_write_end_array(w);
}

bool dataset_summary_write(const struct dataset_summary *summary, const char *path, struct err *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.buf = &text, .indent = 1};
    bool ok;

    json_write_begin_object(&w);
    json_put_integer(&w, "format", DATASET_FORMAT);
    json_put_text(&w, "kind", example_kind_name(summary->kind));
#define WRITE_COUNT(name) json_put_integer(&w, #name, (int64_t)summary->name);
    DATASET_COUNTS(WRITE_COUNT)
#undef WRITE_COUNT
    json_put_text(&w, "over_length", over_length_name(summary->policy));
    json_put_integer(&w, "context_length", summary->context_length);
    write_named(&w, "over_length_named", summary->over_length_named, summary->over_length_lines);
    write_named(&w, "untrained_named", summary->untrained_named, summary->untrained_lines);
    json_put_text(&w, "file_sha256", summary->file_hash);
    json_put_text(&w, "tokenizer_sha256", summary->tokenizer_hash);
    json_put_text(&w, "template_sha256", summary->template_hash);
    json_write_end_object(&w);
    strbuf_add_char(&text, '\n');
    ok = file_replace(path, strbuf_view(&text), err);
    strbuf_deinit(&text);
    return ok;
}

static void read_named(const struct json *root, const char *key, uint64_t *lines)
{
    int count = 0;

    json_each(item, json_get(root, key))
        if (count < DATASET_LINES_NAMED)
            lines[count++] = (uint64_t)json_integer_or(item, 0);
}

static void read_hash(const struct json *root, const char *key, char hash[65])
{
    snprintf(hash, 65, "%.*s", STR_ARG(json_string_or(json_get(root, key), STR(""))));
}

static bool read_members(struct dataset_summary *summary, const struct json *root, const char *path, struct err *err)
{
    struct str kind = json_string_or(json_get(root, "kind"), STR(""));
    bool has_kind = false;

    if (json_integer_or(json_get(root, "format"), 0) != DATASET_FORMAT)
        return err_set(err, ERR_INPUT, "%s is not of format %d", path, DATASET_FORMAT);
    for (int i = 0; i < EXAMPLE_KIND_COUNT; i++) {
        if (!str_is(kind, example_kind_name((enum example_kind)i)))
            continue;
        summary->kind = (enum example_kind)i;
        has_kind = true;
    }
    if (!has_kind || !over_length_find(json_string_or(json_get(root, "over_length"), STR("")), &summary->policy))
        return err_set(err, ERR_INPUT, "%s names an unknown kind or policy", path);
#define READ_COUNT(name) summary->name = (uint64_t)json_integer_or(json_get(root, #name), 0);
    DATASET_COUNTS(READ_COUNT)
#undef READ_COUNT
    summary->context_length = (uint32_t)json_integer_or(json_get(root, "context_length"), 0);
    read_named(root, "over_length_named", summary->over_length_named);
    read_named(root, "untrained_named", summary->untrained_named);
    read_hash(root, "file_sha256", summary->file_hash);
    read_hash(root, "tokenizer_sha256", summary->tokenizer_hash);
    read_hash(root, "template_sha256", summary->template_hash);
    return true;
}

static bool dataset_summary_read(struct dataset_summary *summary, const char *path, struct err *err)
{
    struct arena arena = {0};
    struct json *root;
    struct str text;
    bool ok = false;

    *summary = (struct dataset_summary){0};
    if (!file_read(&arena, path, 1 << 20, &text, err))
        goto out;
    root = json_parse(&arena, text, NULL, err);
    ok = root && read_members(summary, root, path, err);
out:
    arena_deinit(&arena);
    return ok;
}

static bool check_entries(const struct dataset *dataset, const char *folder, struct err *err)
{
    uint64_t start = 0;

    for (uint32_t i = 0; i < dataset->count; i++) {
        const struct dataset_entry *entry = &dataset->entry[i];
        if (entry->start != start || entry->count == 0 || entry->trained_count == 0 ||
            entry->trained_count >= entry->count)
            return err_set(err, ERR_INPUT, "%s: entry %u of the index is damaged", folder, i);
        start += entry->count;
    }
    if (start != dataset->summary.tokens)
        return err_set(err, ERR_INPUT, "%s: the index holds %llu tokens, the summary says %llu", folder,
                       (unsigned long long)start, (unsigned long long)dataset->summary.tokens);
    return true;
}

bool dataset_open(struct dataset *dataset, const char *folder, struct err *err)
{
    struct arena arena = {0};
    uint64_t sequences;
    bool ok = false;

    *dataset = (struct dataset){0};
    if (!dataset_summary_read(&dataset->summary, path_join(&arena, folder, "summary.json"), err) ||
        !file_map(&dataset->tokens_file, path_join(&arena, folder, "tokens.bin"), err) ||
        !file_map(&dataset->index_file, path_join(&arena, folder, "index.bin"), err))
        goto out;
    dataset->tokens = dataset->tokens_file.data;
    dataset->entry = dataset->index_file.data;
    sequences = dataset->summary.examples * (uint64_t)example_kind_sequences(dataset->summary.kind);
    if (dataset->summary.examples > UINT32_MAX / EXAMPLE_SEQUENCES_MAX || dataset->summary.tokens > UINT64_MAX / 4 ||
        dataset->index_file.bytes != sequences * sizeof *dataset->entry ||
        dataset->tokens_file.bytes != dataset->summary.tokens * sizeof *dataset->tokens) {
        err_set(err, ERR_INPUT, "%s: the sizes of its files do not fit its summary", folder);
        goto out;
    }
    dataset->count = (uint32_t)sequences;
    ok = check_entries(dataset, folder, err);
out:
    if (!ok)
        dataset_close(dataset);
    arena_deinit(&arena);
    return ok;
}

void dataset_close(struct dataset *dataset)
{
    file_unmap(&dataset->tokens_file);
    file_unmap(&dataset->index_file);
    *dataset = (struct dataset){0};
}
