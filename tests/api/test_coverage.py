def test_every_route_and_status_of_the_contract_was_seen(contract):
    assert contract.missing() == []
