/* The JSON beside codes of four bits: what is accepted has the shape that was asked for. */
#include "model/codes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct err err = {0};
    bool is_nested;
    float offset;

    if (!codes_state_parse(&arena, (struct str){(const char *)data, size}, 3, 4, &is_nested, &offset, &err))
        ASSERT(err.code != ERR_OK && err.text[0]);
    arena_deinit(&arena);
    return 0;
}
