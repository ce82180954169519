#include "cli/data_rows.h"
#include "data/prepare.h"
#include "train/feed.h"

#include <stdio.h>
#include <stdlib.h>

static void write_lengths(struct json_writer *w, const struct dataset *data, const struct rows *rows, uint32_t row,
                          const char *key, bool is_line)
{
    json_write_key(w, key);
    json_write_begin_array(w);
    for (uint32_t i = rows->start[row]; i < rows->start[row + 1]; i++) {
        const struct dataset_entry *entry = &data->entry[rows->example[i]];
        json_write_integer(w, is_line ? (int64_t)entry->line : entry->count);
    }
    json_write_end_array(w);
}

static void write_tokens(struct json_writer *w, const struct dataset *data, const struct rows *rows, uint32_t row,
                         const char *key, bool is_label)
{
    json_write_key(w, key);
    json_write_begin_array(w);
    for (uint32_t i = rows->start[row]; i < rows->start[row + 1]; i++) {
        const struct dataset_entry *entry = &data->entry[rows->example[i]];
        for (uint32_t k = 0; k < entry->count; k++) {
            uint32_t token = data->tokens[entry->start + k];
            bool trains = token & DATASET_TRAINS;
            json_write_integer(w, is_label && !trains ? EXAMPLE_NO_LABEL : (int64_t)(token & ~DATASET_TRAINS));
        }
    }
    json_write_end_array(w);
}

static void print_rows(const struct dataset *data, const struct rows *rows)
{
    struct strbuf out = {0};

    for (uint32_t row = 0; row < rows->row_count; row++) {
        struct json_writer w = {.buf = &out};
        strbuf_clear(&out);
        json_write_begin_object(&w);
        json_put_integer(&w, "row", row);
        write_lengths(&w, data, rows, row, "lines", true);
        write_lengths(&w, data, rows, row, "lengths", false);
        write_tokens(&w, data, rows, row, "ids", false);
        write_tokens(&w, data, rows, row, "labels", true);
        json_write_end_object(&w);
        puts(out.at);
    }
    strbuf_deinit(&out);
}

static void print_orders(struct feed *feed, int64_t epochs)
{
    struct strbuf out = {0};

    for (int64_t epoch = 0; epoch < epochs; epoch++) {
        struct json_writer w = {.buf = &out};
        const uint32_t *order = feed_order(feed, epoch);
        strbuf_clear(&out);
        json_write_begin_object(&w);
        json_put_integer(&w, "epoch", epoch + 1);
        json_write_key(&w, "order");
        json_write_begin_array(&w);
        for (uint32_t row = 0; row < feed->rows.row_count; row++)
            json_write_integer(&w, order[row]);
        json_write_end_array(&w);
        json_write_end_object(&w);
        puts(out.at);
    }
    strbuf_deinit(&out);
}

static bool print_dataset(const char *folder, const struct data_rows_options *options, struct arena *arena,
                          struct err *err)
{
    struct dataset data = {0};
    struct feed feed;

    if (!dataset_open(&data, folder, err))
        return false;
    feed_init(&feed, arena, &data, options->is_packed, (uint32_t)options->context_length, 1, (uint64_t)options->seed);
    print_rows(&data, &feed.rows);
    print_orders(&feed, options->epochs);
    dataset_close(&data);
    return true;
}

bool data_rows_print(const char *file, const struct encoder *encoder, const struct data_rows_options *options,
                     struct err *err)
{
    struct prepare_options preparing = {
        .encoder = encoder,
        .context_length = (uint32_t)options->context_length,
        .policy = options->over_length,
        .pool = pool_new(1),
    };
    const char *parent = getenv("TMPDIR"), *folder;
    struct arena arena = {0};
    char *cache = arena_printf(&arena, "%s/attune-rows-XXXXXX", parent && *parent ? parent : "/tmp");
    bool ok = false;

    if (!mkdtemp(cache)) {
        err_set(err, ERR_IO, "cannot make the folder %s for prepared data: set TMPDIR to one that can be written",
                cache);
        goto out;
    }
    ok = prepare_file(file, file, cache, &preparing, &arena, &folder, NULL, err) &&
         print_dataset(folder, options, &arena, err);
    dir_remove(cache, NULL);
out:
    pool_free(preparing.pool);
    arena_deinit(&arena);
    return ok;
}
