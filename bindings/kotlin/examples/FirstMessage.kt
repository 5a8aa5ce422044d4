import java.io.File
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.flow.mapNotNull
import kotlinx.coroutines.runBlocking
import org.mimimi.Client
import org.mimimi.ClientException
import org.mimimi.Draft
import org.mimimi.Event
import org.mimimi.Options
import org.mimimi.Profile
import org.mimimi.follow

suspend fun start(home: File, stack: File, account: File): Client {
    val options = Options(profile = Profile.LIVE)
    val client = Client.create(home.path, stack.readText(), account.readText(), options)
    client.registerHandle(home.name)
    return client
}

suspend fun befriend(ann: Client, ben: Client) {
    ann.connect("ben")
    ben.checkInbox()
    for (request in ben.incomingRequests()) {
        val name = ben.acceptRequest(request.id)
        System.err.println("compare with $name ${ben.safetyNumber(name).take(5)} ...")
    }
    while (ann.contacts().isEmpty()) ann.sync(1_000u)
}

suspend fun write(ann: Client) {
    ann.createGroup("climbing")
    ann.addToGroup("climbing", listOf("ben"))
    ann.queueMessage("climbing", Draft.Text("Saturday?"))
}

suspend fun read(ben: Client) {
    ben.sync(0u)
    ben.bringToFront("climbing")
    val said = ben.follow().mapNotNull { stored ->
        ben.acknowledge(listOf(stored.id))
        stored.event as? Event.Message
    }.first()
    println("${said.sender}: ${said.text}")
    ben.sendMessage("climbing", Draft.Reaction(said.message, "👍"))
}

fun main(arguments: Array<String>) = runBlocking {
    val (stack, accountOfAnn, accountOfBen, homes) = arguments.map(::File)
    val ann = start(File(homes, "ann"), stack, accountOfAnn)
    val ben = start(File(homes, "ben"), stack, accountOfBen)
    befriend(ann, ben)
    write(ann)
    read(ben)
    try {
        ann.connect("nobody")
    } catch (refused: ClientException.Refused) {
        println("${refused.code}: ${refused.detail}")
    }
    ann.stop()
    ben.stop()
}
