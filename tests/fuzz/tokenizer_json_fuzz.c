/* Bytes as a tokenizer.json; whatever opens must encode a text with spans in order, and decode what it encoded. */
#include "text/tokenizer.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct tokenizer *tok)
{
    struct str text = STR("The  boat's <s> ab 123 gr\xc3\xbc\xc3\x9f" "e\xcc\x81 \xe4\xbd\xa0\xf0\x9f\x91\x8d\r\n x");
    struct tokenizer_scratch *scratch = tokenizer_scratch_new(tok);
    struct token_list list = {0};
    struct strbuf out = {0};

    if (tokenizer_encode(tok, scratch, text, true, &list, NULL))
        for (size_t i = 0; i < list.count; i++)
            if (list.spans[i].start > list.spans[i].end || list.spans[i].end > text.len || list.ids[i] < 0)
                abort();
    tokenizer_decode(tok, list.ids, list.count, false, &out);
    if (!utf8_is_valid(strbuf_view(&out)))
        abort();
    strbuf_deinit(&out);
    token_list_deinit(&list);
    tokenizer_scratch_free(scratch);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = {0};
    struct tokenizer *tok = tokenizer_parse((struct str){(const char *)data, size}, STR_NONE, &err);

    if (tok)
        use(tok);
    tokenizer_free(tok);
    return 0;
}
