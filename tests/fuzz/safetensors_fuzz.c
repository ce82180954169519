/* A safetensors file from outside: parsed, then every byte of every tensor is read. */
#include "model/safetensors.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct safetensors file;
    struct err err = {0};
    uint64_t total = 0;
    unsigned sum = 0;

    if (!safetensors_parse(&arena, (struct str){(const char *)data, size}, "input", &file, &err)) {
        ASSERT(err.code != ERR_OK && err.text[0]);
        arena_deinit(&arena);
        return 0;
    }
    for (int i = 0; i < file.count; i++) {
        const uint8_t *at = file.tensor[i].data;
        for (uint64_t b = 0; b < file.tensor[i].bytes; b++)
            sum += at[b];
        total += file.tensor[i].bytes;
        ASSERT(safetensors_find(&file, file.tensor[i].name) == &file.tensor[i]);
    }
    ASSERT(total <= size && sum <= 255 * total);
    arena_deinit(&arena);
    return 0;
}
