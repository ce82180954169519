#include "data/prepare.h"
#include "base/hash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK_BYTES = 4 << 20, BLOCK_LINES_MAX = 32768, TASK_LINES = 16, DROP_PERCENT_MAX = 10 };

enum outcome { LINE_KEPT, LINE_TOO_LONG, LINE_UNTRAINED, LINE_WRONG };

/* One of a line's sequences. */
struct sequence {
    struct encoded encoded; /* counts; its pointers are not used behind encode_line */
    size_t token_at;        /* in its task's tokens */
    uint32_t kept_count, kept_trained;
};

/* One line of a block and what became of it. */
struct line {
    size_t at, len; /* in the block's text */
    uint64_t number;
    bool is_oversized;   /* of bytes */
    bool is_over_length; /* of tokens */
    bool has_kind;
    enum example_kind kind;
    enum outcome outcome;
    struct sequence sequence[EXAMPLE_SEQUENCES_MAX];
    char *error; /* LINE_WRONG: from malloc */
};

/* The kept tokens of one task's lines; grows to the most that came by. */
struct task {
    uint32_t *token;
    size_t count, cap;
};

struct worker {
    struct encoder_scratch *scratch;
    struct arena arena; /* the parsed line */
};

struct prepare {
    const struct prepare_options *options;
    struct dataset_summary summary;
    struct jsonl_report *report;
    struct jsonl_cutter cutter;
    struct strbuf text; /* lines of the block */
    struct line *line;
    size_t line_count;
    struct task *task;
    struct worker *worker;
    const char *tokens_path, *index_path;
    int tokens_fd, index_fd;
    struct strbuf tokens, index; /* of the block */
    struct err *err;             /* of a block that note_line ran */
};

static bool run_block(struct prepare *p, struct err *err);

/* Lines of white space are left out here; the others keep their numbers. */
static bool note_line(void *context, const struct jsonl_line *line)
{
    struct prepare *p = context;

    if (!line->is_too_long && str_trim(line->text).len == 0)
        return true;
    if (p->line_count == BLOCK_LINES_MAX && !run_block(p, p->err))
        return false;
    p->line[p->line_count++] = (struct line){
        .at = p->text.len, .len = line->text.len, .number = line->number, .is_oversized = line->is_too_long};
    strbuf_add_str(&p->text, line->text);
    return true;
}

static void keep_tokens(struct task *task, struct sequence *sequence, uint32_t count)
{
    const struct encoded *e = &sequence->encoded;

    if (task->cap < task->count + count) {
        task->cap = (task->count + count) * 2;
        task->token = mem_resize(task->token, task->cap * sizeof *task->token);
    }
    sequence->token_at = task->count;
    sequence->kept_count = count;
    for (uint32_t i = 0; i < count; i++) {
        task->token[task->count++] = (uint32_t)e->ids[i] | (e->trains[i] ? DATASET_TRAINS : 0);
        sequence->kept_trained += e->trains[i];
    }
}

/* The example's sequences; those of a preference lie behind one another. */
static bool encode_sequences(const struct encoder *encoder, struct encoder_scratch *scratch,
                             const struct example *example, struct sequence *sequence, struct err *err)
{
    struct encoded pair[2];

    if (example->kind != EXAMPLE_PREFERENCE)
        return encode_example(encoder, scratch, example, &sequence->encoded, err);
    if (!encode_pair(encoder, scratch, example, pair, err))
        return false;
    sequence[0].encoded = pair[0];
    sequence[1].encoded = pair[1];
    return true;
}

static uint32_t longest_sequence(const struct line *line)
{
    uint32_t longest = 0;

    for (int i = 0; i < example_kind_sequences(line->kind); i++)
        if (line->sequence[i].encoded.count > longest)
            longest = line->sequence[i].encoded.count;
    return longest;
}

/* All sequences of a line are kept, or none. */
static void keep_sequences(struct task *task, struct line *line, uint32_t limit)
{
    line->outcome = LINE_KEPT;
    for (int i = 0; i < example_kind_sequences(line->kind); i++) {
        struct sequence *sequence = &line->sequence[i];
        keep_tokens(task, sequence, sequence->encoded.count < limit ? sequence->encoded.count : limit);
        if (sequence->kept_trained == 0)
            line->outcome = LINE_UNTRAINED;
    }
}

static bool encode_line(struct prepare *p, struct worker *worker, struct line *line, struct task *task, struct err *err)
{
    struct str text = {p->text.at + line->at, line->len};
    uint32_t limit = p->options->context_length;
    struct example example;

    if (line->is_oversized)
        return err_set(err, ERR_LIMIT, "the line is longer than 8 MiB");
    if (!example_parse(&worker->arena, text, &example, err))
        return false;
    line->has_kind = true;
    line->kind = example.kind;
    if (!encode_sequences(p->options->encoder, worker->scratch, &example, line->sequence, err))
        return false;
    line->is_over_length = longest_sequence(line) > limit;
    line->outcome = LINE_TOO_LONG;
    if (line->is_over_length && p->options->policy == OVER_LENGTH_DROP)
        return true;
    if (line->is_over_length && p->options->policy == OVER_LENGTH_ERROR)
        return err_set(err, ERR_INPUT, "the line has %u tokens, more than context_length %u", longest_sequence(line),
                       limit);
    keep_sequences(task, line, limit);
    return true;
}

static char *copy_error(const char *text)
{
    struct str clipped = str_clip(str_of(text), JSONL_ERROR_BYTES - 1);
    char *copy = mem_alloc_zero(JSONL_ERROR_BYTES, 1);

    memcpy(copy, clipped.at, clipped.len);
    return copy;
}

static void run_task(void *context, int index, int thread)
{
    struct prepare *p = context;
    struct worker *worker = &p->worker[thread];
    struct task *task = &p->task[index];
    size_t first = (size_t)index * TASK_LINES, end = first + TASK_LINES;

    task->count = 0;
    for (size_t i = first; i < end && i < p->line_count; i++) {
        struct line *line = &p->line[i];
        struct err err = {0};
        if (!encode_line(p, worker, line, task, &err)) {
            line->outcome = LINE_WRONG;
            line->error = copy_error(err.text);
        }
        arena_reset(&worker->arena);
    }
}

static void add_error(struct prepare *p, struct line *line)
{
    struct jsonl_report *report = p->report;

    if (report->error_count < JSONL_ERRORS_MAX) {
        struct jsonl_error *error = &report->errors[report->error_count];
        error->line = line->number;
        memcpy(error->text, line->error, JSONL_ERROR_BYTES);
    }
    report->error_count++;
    free(line->error);
    line->error = NULL;
}

static void check_kind(struct prepare *p, struct line *line)
{
    char text[JSONL_ERROR_BYTES];

    if (!line->has_kind)
        return;
    if (!p->report->has_kind) {
        p->report->has_kind = true;
        p->report->kind = line->kind;
    }
    if (line->kind == p->report->kind || line->outcome == LINE_WRONG)
        return;
    snprintf(text, sizeof text, "the line is of kind %s, the file began with %s: a file is of one kind",
             example_kind_name(line->kind), example_kind_name(p->report->kind));
    line->outcome = LINE_WRONG;
    line->error = copy_error(text);
}

static void name_line(uint64_t *named, uint64_t *count, uint64_t number)
{
    if (*count < DATASET_LINES_NAMED)
        named[*count] = number;
    (*count)++;
}

static void keep_sequence(struct prepare *p, const struct task *task, const struct line *line,
                          const struct sequence *sequence)
{
    struct dataset_summary *sum = &p->summary;
    struct dataset_entry entry = {sum->tokens, line->number, sequence->kept_count, sequence->kept_trained};
    bool is_cut = sequence->kept_count < sequence->encoded.count;

    sum->tokens += sequence->kept_count;
    sum->trained_tokens += sequence->kept_trained;
    sum->turns += sequence->encoded.turn_count;
    sum->stopped_turns += is_cut ? 0 : sequence->encoded.stopped_count;
    strbuf_add(&p->index, &entry, sizeof entry);
    strbuf_add(&p->tokens, task->token + sequence->token_at, sequence->kept_count * sizeof *task->token);
}

static void keep_line(struct prepare *p, const struct task *task, const struct line *line)
{
    p->summary.examples++;
    for (int i = 0; i < example_kind_sequences(line->kind); i++)
        keep_sequence(p, task, line, &line->sequence[i]);
}

/* One line in the file's order. */
static void take_line(struct prepare *p, const struct task *task, struct line *line)
{
    struct dataset_summary *sum = &p->summary;

    check_kind(p, line);
    if (longest_sequence(line) > sum->longest)
        sum->longest = longest_sequence(line);
    if (line->outcome == LINE_WRONG) {
        add_error(p, line);
        return;
    }
    p->report->example_count++;
    if (line->is_over_length)
        name_line(sum->over_length_named, &sum->over_length_lines, line->number);
    if (line->outcome == LINE_UNTRAINED)
        name_line(sum->untrained_named, &sum->untrained_lines, line->number);
    if (line->outcome == LINE_KEPT)
        keep_line(p, task, line);
}

static bool run_block(struct prepare *p, struct err *err)
{
    pool_run(p->options->pool, (int)((p->line_count + TASK_LINES - 1) / TASK_LINES), run_task, p);
    strbuf_clear(&p->tokens);
    strbuf_clear(&p->index);
    for (size_t i = 0; i < p->line_count; i++)
        take_line(p, &p->task[i / TASK_LINES], &p->line[i]);
    p->line_count = 0;
    strbuf_clear(&p->text);
    return fd_write_all(p->tokens_fd, p->tokens.at, p->tokens.len, p->tokens_path, err) &&
           fd_write_all(p->index_fd, p->index.at, p->index.len, p->index_path, err);
}

static bool report_progress(const struct prepare *p, uint64_t done, uint64_t total, struct err *err)
{
    if (!p->options->on_progress || p->options->on_progress(p->options->context, done, total))
        return true;
    return err_set(err, ERR_CANCELLED, "cancelled while the data was prepared");
}

/* All blocks; stops early once there are more errors than are kept. */
static bool run_blocks(struct prepare *p, const char *path, uint64_t total, struct err *err)
{
    int fd = file_open_read(path, err);
    char *block = mem_alloc(BLOCK_BYTES);
    size_t got = BLOCK_BYTES;
    bool ok = false;

    if (fd < 0)
        goto out;
    while (got == BLOCK_BYTES && p->report->error_count < JSONL_ERRORS_MAX) {
        if (!fd_pread(fd, block, BLOCK_BYTES, p->summary.bytes, &got, path, err))
            goto out;
        if (!jsonl_cut(&p->cutter, (struct str){block, got}, note_line, p) ||
            (got < BLOCK_BYTES && !jsonl_cut_end(&p->cutter, note_line, p)))
            goto out;
        p->summary.bytes += got;
        if (!run_block(p, err) || !report_progress(p, p->summary.bytes, total, err))
            goto out;
    }
    p->summary.lines = p->cutter.line_count;
    p->summary.kind = p->report->kind;
    ok = true;
out:
    fd_close(&fd);
    free(block);
    return ok;
}

static bool fail_with_lines(const struct jsonl_report *report, const char *name, struct err *err)
{
    char text[512] = "";
    size_t len = 0;

    for (size_t i = 0; i < jsonl_report_kept(report) && i < 2; i++)
        len += (size_t)snprintf(text + len, sizeof text - len, "%sline %llu: %.200s", i ? "; " : "",
                                (unsigned long long)report->errors[i].line, report->errors[i].text);
    return err_set(err, ERR_INPUT, "%s: %llu%s wrong line%s: %s%s", name, (unsigned long long)report->error_count,
                   report->error_count >= JSONL_ERRORS_MAX ? " or more" : "", report->error_count == 1 ? "" : "s", text,
                   report->error_count > 2 ? "; …" : "");
}

static bool judge(const struct prepare *p, const char *name, struct err *err)
{
    const struct dataset_summary *sum = &p->summary;
    uint64_t lines = p->report->example_count;

    if (p->report->error_count > 0)
        return fail_with_lines(p->report, name, err);
    if (lines == 0)
        return err_set(err, ERR_INPUT, "%s: the file holds no examples", name);
    if (sum->policy == OVER_LENGTH_DROP && sum->over_length_lines * 100 > lines * DROP_PERCENT_MAX)
        return err_set(
            err, ERR_INPUT,
            "%s: %llu of %llu lines are longer than context_length %u (the longest has %llu tokens), the first is line "
            "%llu: raise context_length, or set over_length to \"truncate\" to cut them",
            name, (unsigned long long)sum->over_length_lines, (unsigned long long)lines, sum->context_length,
            (unsigned long long)sum->longest, (unsigned long long)sum->over_length_named[0]);
    if (sum->examples == 0)
        return err_set(err, ERR_INPUT, "%s: nothing in the file trains", name);
    if (sum->examples > UINT32_MAX / EXAMPLE_SEQUENCES_MAX)
        return err_set(err, ERR_LIMIT, "%s: more than 2,147,483,647 examples", name);
    return true;
}

static bool go_on(void *context)
{
    return report_progress(context, 0, 0, NULL);
}

static bool open_outputs(struct prepare *p, struct arena *arena, const char *folder, struct err *err)
{
    p->tokens_path = path_join(arena, folder, "tokens.bin");
    p->index_path = path_join(arena, folder, "index.bin");
    return dir_make(folder, err) && (p->tokens_fd = file_create(p->tokens_path, err)) >= 0 &&
           (p->index_fd = file_create(p->index_path, err)) >= 0;
}

static bool write_dataset(struct prepare *p, struct arena *arena, const char *path, const char *name, uint64_t total,
                          const char *folder, struct err *err)
{
    return open_outputs(p, arena, folder, err) && run_blocks(p, path, total, err) && judge(p, name, err) &&
           fd_sync(p->tokens_fd, p->tokens_path, err) && fd_sync(p->index_fd, p->index_path, err) &&
           dataset_summary_write(&p->summary, path_join(arena, folder, "summary.json"), err) && dir_sync(folder, err);
}

static void open_workers(struct prepare *p)
{
    int count = pool_thread_count(p->options->pool);

    p->line = mem_alloc(BLOCK_LINES_MAX * sizeof *p->line);
    p->task = mem_alloc_zero(BLOCK_LINES_MAX / TASK_LINES, sizeof *p->task);
    p->worker = mem_alloc_zero((size_t)count, sizeof *p->worker);
    for (int i = 0; i < count; i++)
        p->worker[i].scratch = encoder_scratch_new(p->options->encoder);
}

static void close_prepare(struct prepare *p)
{
    fd_close(&p->tokens_fd);
    fd_close(&p->index_fd);
    for (int i = 0; p->worker && i < pool_thread_count(p->options->pool); i++) {
        encoder_scratch_free(p->worker[i].scratch);
        arena_deinit(&p->worker[i].arena);
    }
    for (size_t i = 0; p->task && i < BLOCK_LINES_MAX / TASK_LINES; i++)
        free(p->task[i].token);
    free(p->worker);
    free(p->task);
    free(p->line);
    strbuf_deinit(&p->text);
    strbuf_deinit(&p->tokens);
    strbuf_deinit(&p->index);
    jsonl_cutter_deinit(&p->cutter);
}

/* The cache folder's name, from everything that decides what it holds. */
static const char *make_key(const struct prepare *p, struct arena *arena)
{
    const struct dataset_summary *sum = &p->summary;
    char *text = arena_printf(arena, "%d %s %s %u %s", DATASET_FORMAT, sum->file_hash,
                              encoder_hash(p->options->encoder), sum->context_length, over_length_name(sum->policy));
    char *hex = arena_alloc(arena, 65);

    sha256_hex(str_of(text), hex);
    return hex;
}

/* Somebody else may have committed the same folder meanwhile: theirs is as good. */
static bool commit(const char *temporary, const char *folder, struct err *err)
{
    struct err renaming = {0};

    if (file_rename(temporary, folder, &renaming))
        return true;
    dir_remove(temporary, NULL);
    if (dir_exists(folder))
        return true;
    *err = renaming;
    return false;
}

bool prepare_file(const char *path, const char *name, const char *cache, const struct prepare_options *options,
                  struct arena *arena, const char **folder, struct jsonl_report *report, struct err *err)
{
    struct prepare p = {.options = options, .tokens_fd = -1, .index_fd = -1, .err = err};
    struct jsonl_report *own_report = report ? NULL : mem_alloc(sizeof *own_report);
    const char *temporary;
    uint64_t total;
    bool ok = false;

    p.report = report ? report : own_report;
    memset(p.report, 0, sizeof *p.report);
    p.summary.policy = options->policy;
    p.summary.context_length = options->context_length;
    snprintf(p.summary.tokenizer_hash, 65, "%s", encoder_tokenizer_hash(options->encoder));
    snprintf(p.summary.template_hash, 65, "%s", encoder_template_hash(options->encoder));
    if (!file_sha256(path, &total, p.summary.file_hash, go_on, &p, err))
        goto out;
    *folder = path_join(arena, cache, make_key(&p, arena));
    ok = dir_exists(*folder);
    if (ok)
        goto out;
    temporary = arena_printf(arena, "%s.tmp.%d", *folder, (int)getpid());
    open_workers(&p);
    ok = write_dataset(&p, arena, path, name, total, temporary, err) && commit(temporary, *folder, err);
    if (!ok)
        dir_remove(temporary, NULL);
out:
    close_prepare(&p);
    free(own_report);
    return ok;
}
