"""What Ollama makes of a conversation: the prompt of a Go template, fed as Ollama feeds it.

Source: ollama, `template/template.go` (collate, Execute, convertMessagesForTemplate), `server/routes.go`.
"""

from __future__ import annotations

from datetime import date

from ggufkit.modelfile import gorender
from ggufkit.modelfile.conversation import Conversation, Message, Parameter, Tool, ToolCall, collate
from ggufkit.modelfile.gorender import GoValue, Struct, go_value
from ggufkit.modelfile.gotemplate import GoTemplate, GoTemplateError


def execute(template: GoTemplate, conversation: Conversation, today: date) -> str:
    """The prompt that Ollama makes of a conversation.

    Raises:
        GoTemplateError: the template fails, or is one of the older kind that knows no `.Messages`.
    """
    if not template.uses_messages:
        raise GoTemplateError("A template without .Messages cannot be rendered for a conversation.")
    conversation = collate(conversation)
    system = "\n\n".join(m.content for m in conversation.messages if m.role == "system")
    data = {
        "System": system.encode(),
        "Messages": [_message(m) for m in conversation.messages],
        "Tools": [_tool(t) for t in conversation.tools],
        "Response": b"",
        "Think": bool(conversation.think),
        "IsThinkSet": conversation.think is not None,
    }
    return gorender.render(template, data, {"currentDate": lambda: today.isoformat().encode()})


def _message(message: Message) -> GoValue:
    calls = [_call(call) for call in message.tool_calls]
    text = {"Role": message.role.encode(), "Content": message.content.encode(), "Thinking": b""}
    return Struct({**text, "ToolCalls": calls})


def _call(call: ToolCall) -> GoValue:
    return Struct({"Function": Struct({"Name": call.name.encode(), "Arguments": go_value(call.arguments)})})


def _tool(tool: Tool) -> GoValue:
    parameters = {
        "Type": b"object",
        "Properties": {p.name.encode(): _property(p) for p in tool.parameters},
        "Required": go_value(tool.required),
    }
    function = {"Name": tool.name.encode(), "Description": tool.description.encode()}
    return Struct({"Type": b"function", "Function": Struct({**function, "Parameters": Struct(parameters)})})


def _property(parameter: Parameter) -> GoValue:
    text = {"Type": parameter.type.encode(), "Description": parameter.description.encode()}
    return Struct({**text, "Enum": go_value(parameter.enum)})
