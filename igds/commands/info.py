"""`info`: what a bundle holds."""

from igds.bundle import bundle_path, embedded_bundles, limits_of, read_card


def add(commands) -> None:
    parser = commands.add_parser(
        "info", help="what a bundle holds", description="Show a bundle's classes, defaults and figures."
    )
    parser.set_defaults(command=_info)
    parser.add_argument("bundle", nargs="?", help="name or path; without it, the embedded bundles are listed")


def _info(options) -> None:
    if options.bundle is None:
        for name in embedded_bundles():
            print(f"{name}: {read_card(bundle_path(name))['title']}")
        return
    path = bundle_path(options.bundle)
    card = read_card(path)
    print(
        f"{path.name}: {card['title']}\nfrom {card.get('source', 'unknown')}; licence: {card.get('license', 'unknown')}"
    )
    if limits := limits_of(card):
        print(limits)
    print("classes: " + ", ".join(card["classes"]))
    print("defaults: " + ", ".join(f"{name} {value}" for name, value in card["defaults"].items()))
    for part, figures in card.get("measured", {}).items():
        print(f"{part}:")
        for name, value in figures.items():
            print(f"  {name.replace('_', ' ')}: {value}")
