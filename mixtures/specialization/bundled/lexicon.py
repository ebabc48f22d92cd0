"""The harbour's ships, places and goods."""

from __future__ import annotations

SHIPS = (
    "Grey Heron", "Marlin Bay", "Alder Star", "Tansy", "Lady Ferrow", "Copper Finch",
    "Old Bramble", "Silver Tern", "Amber Coast", "Northern Lark", "Holly Reach", "Juniper",
    "Sable Point", "Rowan Light", "Western Pearl", "Miss Corran", "Black Plover", "Iron Duke",
    "Saffron", "Kestrel",
)  # fmt: skip
BERTHS = (
    "Berth 1", "Berth 2", "Berth 3", "Berth 4", "Berth 5", "Berth 6", "Berth 7", "North Quay",
    "South Quay", "oil jetty", "dry dock", "grain pier", "west mole",
)  # fmt: skip
KINDS = ("tanker", "ferry", "barge", "trawler", "coaster", "container ship", "bulk carrier")
PEOPLE = (
    "the pilot", "the harbour master", "the dredger crew", "the crane driver",
    "the customs officer", "the night watchman", "the mooring gang", "the ship's agent",
)  # fmt: skip
CAUSES = (
    "a broken winch", "thick fog", "a missing pilot", "a late train", "a failed pump",
    "a strike of the tug crews", "ice in the basin", "a customs check", "a torn fender",
)  # fmt: skip
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve")

# Goods and how they are counted, by class of cargo.
GOODS = {
    "container": ("boxes", "reefers", "steel boxes", "empty boxes", "sealed boxes"),
    "dry bulk": ("tonnes of barley", "tonnes of coal", "tonnes of wheat", "tonnes of gravel",
                 "tonnes of salt"),
    "liquid bulk": ("tonnes of diesel", "tonnes of palm oil", "tonnes of crude oil",
                    "tonnes of methanol", "tonnes of wine in bulk"),
    "passenger": ("passengers", "day trippers", "foot passengers", "travellers", "pilgrims"),
}  # fmt: skip
