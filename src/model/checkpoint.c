#include "model/checkpoint_int.h"
#include "model/experts_file.h"
#include "model/memory.h"

#include <stdlib.h>
#include <string.h>

/* The last two are what checkpoint_bytes takes for small texts and for a line of the index of shards. */
enum { COPIED_BYTES_MAX = 64 << 20, BUFFER_ELEMENTS = 1 << 16, TEXTS_BYTES = 16384, INDEX_LINE_BYTES = 128 };

static const uint64_t SHARD_BYTES_MAX = 5000000000;

/* What a tokenizer may consist of; taken over as it is where the base has it. */
static const char *const tokenizer_files[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt",     "tokenizer.model",       "chat_template.jinja",     "chat_template.json"};

struct output {
    struct model *model;
    const char *folder;
    struct arena *arena;
    struct checkpoint_files *files;
};

static struct checkpoint_file *add_file(struct output *out, const char *name)
{
    struct checkpoint_file *file = &out->files->file[out->files->count];

    ASSERT(out->files->count < CHECKPOINT_FILES_MAX);
    out->files->count++;
    file->name = arena_copy(out->arena, name, strlen(name));
    return file;
}

static bool write_text(struct output *out, const char *name, struct str text, struct err *err)
{
    const char *path = path_join(out->arena, out->folder, name);
    struct checkpoint_file *file;
    int fd = file_create(path, err);
    bool ok;

    if (fd < 0)
        return false;
    ok = fd_write_all(fd, text.at, text.len, path, err) && fd_sync(fd, path, err);
    fd_close(&fd);
    if (!ok)
        return false;
    file = add_file(out, name);
    file->bytes = text.len;
    sha256_hex(text, file->sha256);
    return true;
}

static bool copy_file(struct output *out, const char *name, struct err *err)
{
    const char *from = path_join(out->arena, out->model->folder, name);
    struct arena arena = {0};
    struct str text;
    bool ok;

    if (!file_exists(from))
        return true;
    ok = file_read(&arena, from, COPIED_BYTES_MAX, &text, err) && write_text(out, name, text, err);
    arena_deinit(&arena);
    return ok;
}

static bool copy_tokenizer(struct output *out, struct err *err)
{
    for (size_t i = 0; i < sizeof tokenizer_files / sizeof *tokenizer_files; i++)
        if (!copy_file(out, tokenizer_files[i], err))
            return false;
    return true;
}

bool write_rows(struct safetensors_writer *writer, const void *at, enum dtype from, enum dtype to, int32_t rows,
                int32_t cols, int32_t ld, struct err *err)
{
    char *buffer = mem_alloc(BUFFER_ELEMENTS * dtype_bytes(to));
    bool ok = true;

    for (int32_t i = 0; ok && i < rows; i++)
        for (int32_t j = 0; ok && j < cols; j += BUFFER_ELEMENTS) {
            size_t count = (size_t)(cols - j < BUFFER_ELEMENTS ? cols - j : BUFFER_ELEMENTS);
            convert(buffer, to, (const char *)at + ((size_t)i * (size_t)ld + (size_t)j) * dtype_bytes(from), from,
                    count);
            ok = safetensors_write(writer, buffer, count * dtype_bytes(to), err);
        }
    free(buffer);
    return ok;
}

/* Where an entry's numbers come from: the masters of a param, or the base's file. */
struct source {
    int param; /* -1: copied */
    const struct safetensor *copied;
};

static struct safetensors_entry entry_of(const struct param *param, enum dtype type)
{
    struct safetensors_entry entry = {.name = param->name, .type = type};

    entry.rank = param_shape(param, entry.shape);
    return entry;
}

/* All experts of a layer, turned as files have them, one after the other. */
static bool write_experts(struct safetensors_writer *writer, const struct param *param, const struct param_view *view,
                          enum dtype type, struct err *err)
{
    size_t count = experts_elements(param);
    float *values = mem_alloc(count * sizeof *values);
    bool ok = true;

    for (int32_t e = 0; ok && e < param->experts; e++) {
        experts_fetch(param, view->master, view->type, view->ld, e, values);
        if (type != DTYPE_F32)
            convert(values, type, values, DTYPE_F32, count);
        ok = safetensors_write(writer, values, count * dtype_bytes(type), err);
    }
    free(values);
    return ok;
}

/* Columns as the rows of the file. */
static bool write_columns(struct safetensors_writer *writer, const struct param_view *view, struct err *err)
{
    float *row = mem_alloc((size_t)view->rows * sizeof *row);
    bool ok = true;

    for (int32_t j = 0; ok && j < view->cols; j++) {
        for (int32_t i = 0; i < view->rows; i++)
            row[i] = ((const float *)view->master)[(size_t)i * (size_t)view->ld + (size_t)j];
        ok = safetensors_write(writer, row, (uint64_t)view->rows * sizeof *row, err);
    }
    free(row);
    return ok;
}

static bool write_master(struct model *m, struct safetensors_writer *writer, const struct param *param,
                         const struct param_view *view, enum dtype type, struct err *err)
{
    if (param->experts)
        return write_experts(writer, param, view, type, err);
    if (param->is_transposed)
        return write_columns(writer, view, err);
    return write_rows(writer, view->master, view->type, type, view->rows, view->cols, view->ld, err);
}

static bool write_source(struct model *m, struct safetensors_writer *writer, const struct safetensors_entry *entry,
                         struct err *err)
{
    const struct source *source = entry->context;
    struct param_view view;
    struct mat mat;
    void *copy;
    bool ok;

    if (source->copied)
        return safetensors_write(writer, source->copied->data, source->copied->bytes, err);
    view = model_param_view(m, source->param);
    mat = memory_view(m, (struct mat){view.master, view.rows, view.cols, view.ld, view.type}, &copy);
    view.master = mat.at;
    view.ld = mat.ld;
    ok = write_master(m, writer, &m->params.param[source->param], &view, entry->type, err);
    free(copy);
    return ok;
}

/* One file; every entry's context is its source. */
static bool write_weights(struct output *out, const char *name, struct safetensors_entry *entries, int count,
                          struct err *err)
{
    struct model *m = out->model;
    struct safetensors_writer writer = {0};
    struct checkpoint_file *file;

    if (!safetensors_write_begin(&writer, path_join(out->arena, out->folder, name), entries, count, err))
        return false;
    for (int i = 0; i < count; i++) {
        if (!write_source(m, &writer, &entries[i], err)) {
            safetensors_write_abort(&writer);
            return false;
        }
    }
    file = add_file(out, name);
    return safetensors_write_end(&writer, &file->bytes, file->sha256, err);
}

/* Every tensor of a whole model: the params in the order of the table, then what is taken over unread. */
static struct safetensors_entry *list_tensors(const struct params *params, struct arena *arena, int *count)
{
    size_t most = (size_t)(params->count + params->copied_count);
    struct safetensors_entry *entries = arena_new_array(arena, struct safetensors_entry, most);
    struct source *sources = arena_new_array(arena, struct source, most);

    *count = 0;
    for (int i = 0; i < params->count; i++) {
        sources[*count] = (struct source){.param = i};
        entries[*count] = entry_of(&params->param[i], params->param[i].file_type);
        entries[*count].context = &sources[*count];
        ++*count;
    }
    for (int i = 0; i < params->copied_count; i++) {
        const struct safetensor *tensor = params->copied[i];
        struct safetensors_entry *entry = &entries[*count];
        sources[*count] = (struct source){.param = -1, .copied = tensor};
        *entry = (struct safetensors_entry){
            str_copy(arena, tensor->name), tensor->type, tensor->rank, {0}, &sources[*count]};
        memcpy(entry->shape, tensor->shape, sizeof entry->shape);
        ++*count;
    }
    return entries;
}

/* Greedy, in the order of the list: a tensor that would pass the limit begins the next shard. first[s] is shard s's
 * first tensor; returns the number of shards. */
static int cut_shards(const struct safetensors_entry *entries, int count, int *first)
{
    uint64_t bytes = 0;
    int shards = 0;

    for (int i = 0; i < count; i++) {
        uint64_t more = safetensors_entry_bytes(&entries[i]);
        if (i == 0 || bytes + more > SHARD_BYTES_MAX) {
            first[shards++] = i;
            bytes = 0;
        }
        bytes += more;
    }
    first[shards] = count;
    return shards;
}

static int name_compare(const void *a, const void *b)
{
    return strcmp(((const struct safetensors_entry *)a)->name, ((const struct safetensors_entry *)b)->name);
}

/* entry.context is the name of the file here. */
static bool write_index(struct output *out, struct safetensors_entry *entries, int count, struct err *err)
{
    struct strbuf text = {0};
    struct json_writer json = {.buf = &text, .indent = 2};
    uint64_t total = 0, elements = 0;
    bool ok;

    qsort(entries, (size_t)count, sizeof *entries, name_compare);
    for (int i = 0; i < count; i++) {
        uint64_t bytes = safetensors_entry_bytes(&entries[i]);
        total += bytes;
        elements += bytes / dtype_bytes(entries[i].type);
    }
    json_write_begin_object(&json);
    json_write_key(&json, "metadata");
    json_write_begin_object(&json);
    json_put_integer(&json, "total_parameters", (int64_t)elements);
    json_put_integer(&json, "total_size", (int64_t)total);
    json_write_end_object(&json);
    json_write_key(&json, "weight_map");
    json_write_begin_object(&json);
    for (int i = 0; i < count; i++)
        json_put_text(&json, entries[i].name, entries[i].context);
    json_write_end_object(&json);
    json_write_end_object(&json);
    strbuf_add_char(&text, '\n');
    ok = write_text(out, "model.safetensors.index.json", strbuf_view(&text), err);
    strbuf_deinit(&text);
    return ok;
}

static bool write_full_weights(struct output *out, struct err *err)
{
    int count, *first, shards;
    struct safetensors_entry *entries = list_tensors(&out->model->params, out->arena, &count);
    struct safetensors_entry *index = arena_new_array(out->arena, struct safetensors_entry, (size_t)count);

    first = arena_new_array(out->arena, int, (size_t)count + 1);
    shards = cut_shards(entries, count, first);
    for (int s = 0; s < shards; s++) {
        const char *name = shards == 1 ? "model.safetensors"
                                       : arena_printf(out->arena, "model-%05d-of-%05d.safetensors", s + 1, shards);
        for (int i = first[s]; i < first[s + 1]; i++) {
            index[i] = entries[i];
            index[i].context = (void *)(uintptr_t)name;
        }
        if (!write_weights(out, name, entries + first[s], first[s + 1] - first[s], err))
            return false;
    }
    return shards == 1 || write_index(out, index, count, err);
}

/* The type that most of the weights have in the base's files. */
static enum dtype weights_type(const struct params *params)
{
    uint64_t counts[DTYPE_COUNT] = {0};
    enum dtype most = DTYPE_F32;

    for (int i = 0; i < params->count; i++)
        counts[params->param[i].file_type] += (uint64_t)params->param[i].rows * (uint64_t)params->param[i].cols;
    for (int type = 0; type < DTYPE_COUNT; type++)
        if (counts[type] > counts[most])
            most = (enum dtype)type;
    return most;
}

/* transformers refuses to generate without one; the base's own is copied where it is there. */
static bool write_generation_config(struct output *out, struct err *err)
{
    const struct model_config *config = &out->model->config;
    struct strbuf text = {0};
    struct json_writer json = {.buf = &text, .indent = 2};
    bool ok;

    if (file_exists(path_join(out->arena, out->model->folder, "generation_config.json")))
        return copy_file(out, "generation_config.json", err);
    json_write_begin_object(&json);
    json_put_bool(&json, "_from_model_config", true);
    if (config->bos_id >= 0)
        json_put_integer(&json, "bos_token_id", config->bos_id);
    if (config->eos_count == 1)
        json_put_integer(&json, "eos_token_id", config->eos_ids[0]);
    if (config->eos_count > 1) {
        json_write_key(&json, "eos_token_id");
        json_write_begin_array(&json);
        for (int i = 0; i < config->eos_count; i++)
            json_write_integer(&json, config->eos_ids[i]);
        json_write_end_array(&json);
    }
    if (config->pad_id >= 0)
        json_put_integer(&json, "pad_token_id", config->pad_id);
    json_write_end_object(&json);
    strbuf_add_char(&text, '\n');
    ok = write_text(out, "generation_config.json", strbuf_view(&text), err);
    strbuf_deinit(&text);
    return ok;
}

static bool write_full(struct output *out, struct err *err)
{
    struct model *m = out->model;

    return write_full_weights(out, err) &&
           write_text(out, "config.json", config_write(out->arena, &m->config, weights_type(&m->params)), err) &&
           write_generation_config(out, err) && copy_tokenizer(out, err);
}

/* The tensors of an adapter. */
static struct safetensors_entry *list_adapter(const struct params *params, struct arena *arena, int *count)
{
    struct safetensors_entry *entries = arena_new_array(arena, struct safetensors_entry, (size_t)params->count);
    struct source *sources = arena_new_array(arena, struct source, (size_t)params->count);

    *count = 0;
    for (int i = 0; i < params->count; i++) {
        if (!params->param[i].is_trained)
            continue;
        sources[*count] = (struct source){.param = i};
        entries[*count] = entry_of(&params->param[i], DTYPE_F32);
        entries[*count].name = adapter_tensor_name(&params->param[i]);
        entries[*count].context = &sources[*count];
        ++*count;
    }
    return entries;
}

static bool write_adapter(struct output *out, const char *base_name, struct err *err)
{
    struct model *m = out->model;
    struct strbuf text = {0};
    int count;
    struct safetensors_entry *entries = list_adapter(&m->params, out->arena, &count);
    bool ok;

    adapter_config_write(&text, m, base_name);
    ok = write_weights(out, "adapter_model.safetensors", entries, count, err) &&
         write_text(out, "adapter_config.json", strbuf_view(&text), err) && copy_tokenizer(out, err);
    strbuf_deinit(&text);
    return ok;
}

bool checkpoint_write(struct model *m, const char *folder, const char *base_name, struct arena *arena,
                      struct checkpoint_files *files, struct err *err)
{
    struct output out = {m, folder, arena, files};

    ASSERT(m->is_trained);
    *files = (struct checkpoint_files){.file = arena_new_array(arena, struct checkpoint_file, CHECKPOINT_FILES_MAX)};
    return m->lora.rank ? write_adapter(&out, base_name, err) : write_full(&out, err);
}

uint64_t checkpoint_bytes(const struct model *m)
{
    struct arena arena = {0};
    int count, *first, shards;
    struct safetensors_entry *entries =
        m->lora.rank ? list_adapter(&m->params, &arena, &count) : list_tensors(&m->params, &arena, &count);
    uint64_t bytes = m->config.text.len + TEXTS_BYTES, more;

    first = arena_new_array(&arena, int, (size_t)count + 1);
    shards = m->lora.rank ? 1 : cut_shards(entries, count, first);
    for (int s = 0; s < shards; s++)
        bytes += shards == 1 ? safetensors_file_bytes(entries, count)
                             : safetensors_file_bytes(entries + first[s], first[s + 1] - first[s]);
    if (shards > 1)
        bytes += (uint64_t)count * INDEX_LINE_BYTES;
    for (size_t i = 0; i < sizeof tokenizer_files / sizeof *tokenizer_files; i++)
        if (file_size(path_join(&arena, m->folder, tokenizer_files[i]), &more, NULL))
            bytes += more;
    arena_deinit(&arena);
    return bytes;
}
