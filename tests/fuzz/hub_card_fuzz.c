/* A licence that is read from a stranger's card is one in the card that is written with it, and its only one. */
#include "hub/card.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct strbuf out = {0};
    struct hub_card card = {.repo = "me/out", .base = "org/base", .method = "supervised"};

    card.base_licence = hub_card_licence(&arena, (struct str){(const char *)data, size});
    card.receipt = json_parse(&arena, (struct str){(const char *)data, size}, NULL, NULL);
    hub_card_write(&card, &arena, &out);
    if (card.base_licence) {
        const char *again = hub_card_licence(&arena, strbuf_view(&out));

        if (!again || strcmp(again, card.base_licence) != 0)
            abort();
    } else if (hub_card_licence(&arena, strbuf_view(&out))) {
        abort();
    }
    strbuf_deinit(&out);
    arena_deinit(&arena);
    return 0;
}
