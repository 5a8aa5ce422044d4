import asyncio
import sys
from pathlib import Path

import mimimi


async def start(home: Path, stack: str, account: str) -> mimimi.Client:
    client = await mimimi.Client.create(
        home=str(home),
        endpoints=Path(stack).read_text(),
        account_token=Path(account).read_text(),
        options=mimimi.Options(profile=mimimi.Profile.LIVE),
    )
    await client.register_handle(home.name)
    return client


async def befriend(ann: mimimi.Client, ben: mimimi.Client) -> None:
    await ann.connect("ben")
    await ben.check_inbox()
    for request in ben.incoming_requests():
        name = await ben.accept_request(request.id)
        print("compare with", name, ben.safety_number(name)[:5], "...", file=sys.stderr)
    while not ann.contacts():
        await ann.sync(1_000)


async def write(ann: mimimi.Client) -> None:
    await ann.create_group("climbing")
    await ann.add_to_group("climbing", ["ben"])
    ann.queue_message("climbing", mimimi.Draft.TEXT("Saturday?"))


async def read(ben: mimimi.Client) -> None:
    await ben.sync(0)
    await ben.bring_to_front("climbing")
    async for stored in mimimi.follow(ben):
        event = stored.event
        if isinstance(event, mimimi.Event.MESSAGE):
            print(f"{event.sender}: {event.text}")
        ben.acknowledge([stored.id])
        if isinstance(event, mimimi.Event.MESSAGE):
            await ben.send_message("climbing", mimimi.Draft.REACTION(event.message, "👍"))
            return


async def main() -> None:
    stack, account_of_ann, account_of_ben, homes = sys.argv[1:]
    ann = await start(Path(homes, "ann"), stack, account_of_ann)
    ben = await start(Path(homes, "ben"), stack, account_of_ben)
    await befriend(ann, ben)
    await write(ann)
    await read(ben)
    try:
        await ann.connect("nobody")
    except mimimi.RefusedError as error:
        print(f"{error.code}: {error.detail}")


asyncio.run(main())
