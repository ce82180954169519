#include "data/preview.h"
#include "data/jsonl.h"
#include "os/file.h"
#include "text/tokenizer.h"

#include <stdlib.h>

enum { BLOCK_BYTES = 1 << 20 };

struct preview {
    const struct preview_options *options;
    struct encoder_scratch *scratch;
    struct jsonl_cutter cutter;
    struct arena arena; /* one line */
    struct strbuf out, text;
    uint64_t tokens_left;
};

static void put_labels(struct json_writer *w, const struct encoded *e)
{
    json_write_key(w, "ids");
    json_write_begin_array(w);
    for (uint32_t i = 0; i < e->count; i++)
        json_write_integer(w, e->ids[i]);
    json_write_end_array(w);
    json_write_key(w, "labels");
    json_write_begin_array(w);
    for (uint32_t i = 0; i < e->count; i++)
        json_write_integer(w, e->trains[i] ? e->ids[i] : EXAMPLE_NO_LABEL);
    json_write_end_array(w);
}

/* Part of a character: as the vocabulary has it. */
static struct str token_text(struct preview *p, int32_t id)
{
    const struct tokenizer *tokenizer = encoder_tokenizer(p->options->encoder);

    strbuf_clear(&p->text);
    tokenizer_decode(tokenizer, &id, 1, false, &p->text);
    if (p->text.len == 0 || str_find(strbuf_view(&p->text), STR("\xef\xbf\xbd"), 0) >= 0)
        return tokenizer_token_text(tokenizer, id);
    return strbuf_view(&p->text);
}

static void put_tokens(struct preview *p, struct json_writer *w, const struct encoded *e)
{
    uint32_t shown = e->count < p->tokens_left ? e->count : (uint32_t)p->tokens_left;

    p->tokens_left -= shown;
    strbuf_clear(&p->text);
    tokenizer_decode(encoder_tokenizer(p->options->encoder), e->ids, shown, false, &p->text);
    json_write_key(w, "text");
    json_write_string(w, strbuf_view(&p->text));
    json_put_integer(w, "token_count", e->count);
    json_put_integer(w, "trained_count", e->trained_count);
    json_write_key(w, "tokens");
    json_write_begin_array(w);
    for (uint32_t i = 0; i < shown; i++) {
        json_write_begin_object(w);
        json_put_integer(w, "id", e->ids[i]);
        json_write_key(w, "text");
        json_write_string(w, token_text(p, e->ids[i]));
        json_put_bool(w, "trained", e->trains[i]);
        json_write_end_object(w);
    }
    json_write_end_array(w);
}

static void put_sequence(struct preview *p, struct json_writer *w, const struct encoded *e)
{
    if (p->options->form == PREVIEW_LABELS)
        put_labels(w, e);
    else
        put_tokens(p, w, e);
}

static bool encode(struct preview *p, const struct example *example, struct encoded encoded[EXAMPLE_SEQUENCES_MAX],
                   struct err *err)
{
    return example->kind == EXAMPLE_PREFERENCE
               ? encode_pair(p->options->encoder, p->scratch, example, encoded, err)
               : encode_example(p->options->encoder, p->scratch, example, &encoded[0], err);
}

static bool put_example(struct preview *p, struct json_writer *w, struct str text, struct err *err)
{
    static const char *const names[] = {"chosen", "rejected"};
    struct encoded encoded[EXAMPLE_SEQUENCES_MAX];
    struct example example;

    if (!example_parse(&p->arena, text, &example, err) || !encode(p, &example, encoded, err))
        return false;
    if (p->options->form == PREVIEW_TOKENS)
        json_put_text(w, "kind", example_kind_name(example.kind));
    if (example.kind != EXAMPLE_PREFERENCE) {
        put_sequence(p, w, &encoded[0]);
        return true;
    }
    for (int i = 0; i < 2; i++) {
        json_write_key(w, names[i]);
        json_write_begin_object(w);
        put_sequence(p, w, &encoded[i]);
        json_write_end_object(w);
    }
    return true;
}

/* False behind the last line that is wanted. */
static bool take_line(void *context, const struct jsonl_line *line)
{
    struct preview *p = context;
    struct json_writer w = {.buf = &p->out};
    struct err err = {0};

    if (line->number < p->options->first || (!line->is_too_long && str_trim(line->text).len == 0))
        return true;
    if (line->number - p->options->first >= p->options->count)
        return false;
    strbuf_clear(&p->out);
    json_write_begin_object(&w);
    json_put_integer(&w, "line", (int64_t)line->number);
    if (line->is_too_long)
        json_put_text(&w, "error", "the line is longer than 8 MiB");
    else if (!put_example(p, &w, line->text, &err))
        json_put_text(&w, "error", err.text);
    json_write_end_object(&w);
    p->options->on_line(p->options->context, strbuf_view(&p->out));
    arena_reset(&p->arena);
    return true;
}

static bool read_lines(struct preview *p, const char *path, struct err *err)
{
    int fd = file_open_read(path, err);
    char *block = mem_alloc(BLOCK_BYTES);
    bool ok = fd >= 0, is_wanted = true;
    size_t got = BLOCK_BYTES;
    uint64_t offset = 0;

    for (; ok && is_wanted && got == BLOCK_BYTES; offset += got) {
        ok = fd_pread(fd, block, BLOCK_BYTES, offset, &got, path, err);
        is_wanted = ok && jsonl_cut(&p->cutter, (struct str){block, got}, take_line, p);
    }
    if (is_wanted)
        jsonl_cut_end(&p->cutter, take_line, p);
    fd_close(&fd);
    free(block);
    return ok;
}

bool preview_file(const char *path, const struct preview_options *options, struct err *err)
{
    struct preview p = {.options = options,
                        .scratch = encoder_scratch_new(options->encoder),
                        .tokens_left = options->tokens_max ? options->tokens_max : UINT64_MAX};
    bool ok = read_lines(&p, path, err);

    encoder_scratch_free(p.scratch);
    jsonl_cutter_deinit(&p.cutter);
    arena_deinit(&p.arena);
    strbuf_deinit(&p.out);
    strbuf_deinit(&p.text);
    return ok;
}
