#include "model/safetensors.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>

/* Header bytes as the reference allows them; separators bound the JSON tree of a header that is all `1,1,1`;
 * __metadata__ in all. */
enum { HEADER_BYTES_MAX = 100000000, HEADER_COMMAS_MAX = 2 << 20, METADATA_BYTES_MAX = 1 << 20 };

static const struct {
    const char *name;
    int bits;
    enum dtype type;
} formats[] = {
    {"BOOL", 8, DTYPE_COUNT},
    {"F4", 4, DTYPE_COUNT},
    {"F6_E2M3", 6, DTYPE_COUNT},
    {"F6_E3M2", 6, DTYPE_COUNT},
    {"U8", 8, DTYPE_U8},
    {"I8", 8, DTYPE_COUNT},
    {"F8_E5M2", 8, DTYPE_COUNT},
    {"F8_E4M3", 8, DTYPE_COUNT},
    {"F8_E8M0", 8, DTYPE_COUNT},
    {"F8_E4M3FNUZ", 8, DTYPE_COUNT},
    {"F8_E5M2FNUZ", 8, DTYPE_COUNT},
    {"I16", 16, DTYPE_COUNT},
    {"U16", 16, DTYPE_COUNT},
    {"F16", 16, DTYPE_F16},
    {"BF16", 16, DTYPE_BF16},
    {"I32", 32, DTYPE_I32},
    {"U32", 32, DTYPE_COUNT},
    {"F32", 32, DTYPE_F32},
    {"C64", 64, DTYPE_COUNT},
    {"F64", 64, DTYPE_F64},
    {"I64", 64, DTYPE_I64},
    {"U64", 64, DTYPE_COUNT},
};

/* What a message is about: the file and, once known, the tensor. */
struct place {
    const char *file;
    struct str tensor;
};

static bool refuse(const struct place *place, struct err *err, enum err_code code, const char *rule)
{
    if (!place->tensor.at)
        return err_set(err, code, "%s: %s", place->file, rule);
    return err_set(err, code, "%s: tensor \"%.*s\": %s", place->file,
                   (int)(place->tensor.len > 128 ? 128 : place->tensor.len), place->tensor.at, rule);
}

static int name_compare(const void *a, const void *b)
{
    return str_compare(((const struct safetensor *)a)->name, ((const struct safetensor *)b)->name);
}

static int range_compare(const void *a, const void *b)
{
    const struct safetensor *s = a, *t = b;

    if (s->data != t->data)
        return (uintptr_t)s->data < (uintptr_t)t->data ? -1 : 1;
    return s->bytes < t->bytes ? -1 : s->bytes > t->bytes;
}

static bool read_metadata(const struct json *item, const struct place *place, struct safetensors *out, struct err *err)
{
    size_t bytes = 0;

    if (item->type != JSON_OBJECT)
        return refuse(place, err, ERR_INPUT, "__metadata__ must be an object of strings");
    json_each(member, item) {
        if (member->type != JSON_STRING)
            return refuse(place, err, ERR_INPUT, "__metadata__ must hold strings only");
        bytes += member->key.len + member->string.len;
        if (bytes > METADATA_BYTES_MAX)
            return refuse(place, err, ERR_LIMIT, "__metadata__ is longer than 1 MiB");
    }
    out->metadata_format = json_string_or(json_get(item, "format"), STR_NONE);
    return true;
}

/* Returns the bits of one element, 0 with err set for a type that the format does not have. */
static int read_type(const struct json *item, const struct place *place, struct safetensor *tensor, struct err *err)
{
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (json_is(item, formats[i].name)) {
            tensor->type = formats[i].type;
            tensor->type_name = item->string;
            return formats[i].bits;
        }
    refuse(place, err, ERR_INPUT, "dtype is not one of the format's");
    return 0;
}

static bool read_shape(const struct json *item, const struct place *place, struct safetensor *tensor, struct err *err)
{
    if (!json_has_type(item, JSON_ARRAY))
        return refuse(place, err, ERR_INPUT, "shape must be a list");
    if (item->count > SAFETENSORS_RANK_MAX)
        return refuse(place, err, ERR_LIMIT, "shape has more than 8 dimensions");
    json_each(size, item) {
        if (size->type != JSON_NUMBER || !size->is_integer || size->integer < 0)
            return refuse(place, err, ERR_INPUT, "shape must hold whole numbers of at most 63 bits");
        tensor->shape[tensor->rank++] = (uint64_t)size->integer;
    }
    return true;
}

static bool shape_bytes(const struct safetensor *tensor, int bits, const struct place *place, uint64_t *bytes,
                        struct err *err)
{
    uint64_t count = 1;

    for (int i = 0; i < tensor->rank; i++)
        if (__builtin_mul_overflow(count, tensor->shape[i], &count))
            return refuse(place, err, ERR_INPUT, "the product of the shape overflows");
    if (__builtin_mul_overflow(count, (uint64_t)bits, &count))
        return refuse(place, err, ERR_INPUT, "the product of shape and dtype overflows");
    if (count % 8)
        return refuse(place, err, ERR_INPUT, "the tensor does not end at a byte");
    *bytes = count / 8;
    return true;
}

static bool read_range(const struct json *item, struct str data, const struct place *place, struct safetensor *tensor,
                       struct err *err)
{
    const struct json *begin = json_at(item, 0), *end = json_at(item, 1);

    if (!json_has_type(item, JSON_ARRAY) || item->count != 2 || begin->type != JSON_NUMBER ||
        end->type != JSON_NUMBER || !begin->is_integer || !end->is_integer || begin->integer < 0 || end->integer < 0)
        return refuse(place, err, ERR_INPUT, "data_offsets must be two whole numbers of at most 63 bits");
    if (end->integer < begin->integer)
        return refuse(place, err, ERR_INPUT, "data_offsets end before they begin");
    if ((uint64_t)end->integer > data.len)
        return refuse(place, err, ERR_INPUT, "data_offsets reach beyond the file");
    tensor->data = data.at + begin->integer;
    tensor->bytes = (uint64_t)(end->integer - begin->integer);
    return true;
}

static bool read_tensor(const struct json *entry, struct str data, const char *file, struct safetensor *tensor,
                        struct err *err)
{
    struct place place = {file, entry->key};
    uint64_t bytes = 0;
    int bits;

    tensor->name = entry->key;
    if (tensor->name.len > SAFETENSORS_NAME_MAX)
        return refuse(&place, err, ERR_LIMIT, "its name is longer than 512 bytes");
    if (entry->type != JSON_OBJECT || entry->count != 3)
        return refuse(&place, err, ERR_INPUT, "its entry must have exactly dtype, shape and data_offsets");
    bits = read_type(json_get(entry, "dtype"), &place, tensor, err);
    if (!bits || !read_shape(json_get(entry, "shape"), &place, tensor, err) ||
        !shape_bytes(tensor, bits, &place, &bytes, err) ||
        !read_range(json_get(entry, "data_offsets"), data, &place, tensor, err))
        return false;
    if (bytes != tensor->bytes)
        return refuse(&place, err, ERR_INPUT, "shape and dtype do not give the bytes of data_offsets");
    return true;
}

/* Sorted by place, each tensor must begin where the one before ended, and the last end where the file does. */
static bool check_tiling(struct safetensors *out, struct str data, const char *file, struct err *err)
{
    const char *expected = data.at;

    if (out->count)
        qsort(out->tensor, (size_t)out->count, sizeof *out->tensor, range_compare);
    for (int i = 0; i < out->count; i++) {
        struct place place = {file, out->tensor[i].name};
        if ((const char *)out->tensor[i].data < expected)
            return refuse(&place, err, ERR_INPUT, "its data overlaps another tensor's");
        if ((const char *)out->tensor[i].data > expected)
            return refuse(&place, err, ERR_INPUT, "there is a hole before its data");
        expected += out->tensor[i].bytes;
    }
    if (expected != data.at + data.len)
        return refuse(&(struct place){file, STR_NONE}, err, ERR_INPUT, "there are bytes behind the last tensor");
    return true;
}

static bool check_names(struct safetensors *out, const char *file, struct err *err)
{
    if (out->count)
        qsort(out->tensor, (size_t)out->count, sizeof *out->tensor, name_compare);
    for (int i = 1; i < out->count; i++)
        if (str_equal(out->tensor[i - 1].name, out->tensor[i].name))
            return refuse(&(struct place){file, out->tensor[i].name}, err, ERR_INPUT, "its name occurs twice");
    return true;
}

/* Splits the file into header and data. */
static bool split(struct str bytes, const char *file, struct str *header, struct str *data, struct err *err)
{
    struct place place = {file, STR_NONE};
    uint64_t len = 0;
    size_t commas = 0, end;

    if (bytes.len < 8)
        return refuse(&place, err, ERR_INPUT, "a safetensors file has at least 8 bytes");
    for (int i = 0; i < 8; i++)
        len |= (uint64_t)(uint8_t)bytes.at[i] << (8 * i);
    if (len > HEADER_BYTES_MAX)
        return refuse(&place, err, ERR_LIMIT, "the header is longer than 100 MB (or this is not a safetensors file)");
    if (len > bytes.len - 8)
        return refuse(&place, err, ERR_INPUT, "the header is longer than the file");
    *header = (struct str){bytes.at + 8, (size_t)len};
    *data = (struct str){bytes.at + 8 + len, bytes.len - 8 - (size_t)len};
    for (end = header->len; end > 0 && header->at[end - 1] == ' ';)
        end--;
    if (!end || header->at[0] != '{' || header->at[end - 1] != '}')
        return refuse(&place, err, ERR_INPUT, "the header must begin with { and end with } and spaces");
    for (size_t i = 0; i < header->len; i++)
        commas += header->at[i] == ',';
    if (commas > HEADER_COMMAS_MAX)
        return refuse(&place, err, ERR_LIMIT, "the header has too many values");
    return true;
}

bool safetensors_parse(struct arena *arena, struct str bytes, const char *name, struct safetensors *out,
                       struct err *err)
{
    struct json_limits limits = {.depth = 4, .members = SAFETENSORS_COUNT_MAX + 1};
    struct place place = {name, STR_NONE};
    struct str header = STR_NONE, data = STR_NONE;
    bool has_metadata = false;
    struct json *root;

    *out = (struct safetensors){0};
    if (!split(bytes, name, &header, &data, err))
        return false;
    root = json_parse(arena, header, &limits, err);
    if (!root)
        return err_prefix(err, "%s: header", name);
    out->tensor = arena_new_array(arena, struct safetensor, root->count);
    json_each(entry, root) {
        if (str_is(entry->key, "__metadata__")) {
            if (has_metadata)
                return refuse(&place, err, ERR_INPUT, "__metadata__ occurs twice");
            has_metadata = true;
            if (!read_metadata(entry, &place, out, err))
                return false;
        } else if (out->count == SAFETENSORS_COUNT_MAX) {
            return refuse(&place, err, ERR_LIMIT, "there are more than 65,536 tensors");
        } else if (!read_tensor(entry, data, name, &out->tensor[out->count++], err)) {
            return false;
        }
    }
    return check_tiling(out, data, name, err) && check_names(out, name, err);
}

static const struct safetensor *find(const struct safetensor *tensors, int count, struct str name)
{
    struct safetensor key = {.name = name};

    return count ? bsearch(&key, tensors, (size_t)count, sizeof key, name_compare) : NULL;
}

const struct safetensor *safetensors_find(const struct safetensors *file, struct str name)
{
    return find(file->tensor, file->count, name);
}

const struct safetensor *safetensors_set_find(const struct safetensors_set *set, const char *name)
{
    return find(set->tensor, set->count, str_of(name));
}
