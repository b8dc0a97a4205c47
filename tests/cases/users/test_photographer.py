"""A photographer has a folder of photos, wants a thumbnail of each, and finds one that is broken."""

from tests.cases.users.conftest import Person

PHOTOS = {f"photos/{place}/{number}.txt": f"photo {number}\n" for number, place in enumerate(("rome", "oslo") * 3)}


def test_thumbnails_keep_names_and_only_the_broken_photo_runs_again(person: Person) -> None:
    person.has({**PHOTOS, "photos/oslo/3.txt": "torn\n", "photos/.DS_Store": "of the desktop"})
    person.types(
        "piecework processors register thumbnail --output '{input.stem}.jpg' "
        """--command "sh -c 'grep photo {input} > {output}'" """
    )
    job = "--name album --input photos --stage thumbnail --max-attempts 1 --tolerated-failures 20% --watch"
    seen = person.types(f"piecework submit {job}")
    assert "not uploaded, as your desktop made it: " in seen and ".DS_Store" in seen
    assert "5/6 1 failed" in seen and "1 task failed and was tolerated" in seen

    assert "photos/oslo/3.txt" in person.types("piecework failures album@last")

    person.types(
        "piecework processors register thumbnail --output '{input.stem}.jpg' "
        """--command "sh -c 'grep -E \\"photo|torn\\" {input} > {output}'" """
    )
    person.types("piecework retry album@last --latest")
    person.types("piecework wait album@last")
    person.types("piecework results album@last --download thumbnails")
    made = {path.relative_to(person.home / "thumbnails"): path.read_text() for path in person.home.rglob("*.jpg")}
    assert {str(path): text for path, text in made.items()} == {
        name.removeprefix("photos/").replace(".txt", ".jpg"): text for name, text in PHOTOS.items()
    } | {"oslo/3.jpg": "torn\n"}
    assert person.steps == 7


def test_what_a_failed_job_has_made_is_there_at_once(person: Person) -> None:
    person.has({f"pair/{name}.txt": name for name in ("good", "torn")})
    person.types(
        "piecework processors register picky --output '{input.stem}.jpg' "
        """--command "sh -c 'sleep 0.1; grep good {input} > {output}'" """
    )
    person.types("piecework submit --name pair --input pair --stage picky --max-attempts 1 --watch", exit_code=1)
    seen = person.types("piecework results pair@last --partial --download pair-made")
    assert "pair-made/good.jpg" in seen and "1 of 2 parts are there; 1 failed" in seen
    assert person.steps == 3
