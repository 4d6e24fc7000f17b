"""Two processes that hold objects for each other: the student's, in the sandbox, and the grader's, outside.

Both run this class. Data crosses as data (wire.py); everything else stays where it is and is known to the other side by
a number. Either side may call what the other holds, also while it answers a call. What the grader refuses to do for the
student's side is settled in `Peer.serves`, which split.py makes narrow.

Gradients cross too, once differentiated: a tensor that carries a graph comes with a number, and its backward pass asks
the side that has the graph for the product with the Jacobian.
"""

import collections

import numpy as np

from .wire import Channel, Closed, WireError

FRAMES = 64  # calls whose graphs are kept for a backward pass
DEPTH = 40  # calls within calls


class Peer:
    """One end of the socket; see student.py and split.py for the two kinds."""

    sign = 1  # of the numbers of its calls, so that those of the two sides differ

    def __init__(self, socket, tick=None):
        self.channel = Channel(socket, self.refer, self.resolve, tick)
        self.objects, self.numbers, self.next = {}, {}, 0
        self.frames = collections.OrderedDict()  # number -> the call whose tensors a backward pass goes to
        self.stack, self.arriving, self.deadline = [], None, None

    # ---- what crosses -----------------------------------------------------------------------------------------------

    def keep(self, thing):
        """The number under which the other side may speak of an object."""
        number = self.numbers.get(id(thing))
        if number is None:
            self.next += 1
            number = self.numbers[id(thing)] = self.next
            self.objects[number] = thing
        return number

    def refer(self, value, last, plain):
        if not last:
            if is_grad_tensor(value):
                return self.refer_tensor(value, plain)
            return self.refer_own(value, plain)
        return {"tag": "mine", "id": self.keep(value), "about": self.describe(value)}

    def refer_tensor(self, value, plain):
        """A tensor with a gradient: as an argument a leaf of the other side's, as a result with its graph's number."""
        frame = self.stack[-1]
        if frame.going:
            frame.leaves.append(value)
            return {"tag": "leaf", "v": plain(value.detach()), "parameter": is_parameter(value)}
        own = value.is_leaf and not any(value is t for t in frame.leaves)
        number = self.keep(value) if own else self.keep_live(value, frame)
        if len(self.stack) > 1:
            self.stack[-2].leaves.append(value)
        about = {"id": number, "frame": frame.number, "leaf": own, "parameter": is_parameter(value)}
        return {"tag": "live", "v": plain(value.detach())} | about

    def keep_live(self, value, frame):
        self.next += 1
        self.objects[self.next] = value
        frame.live.append(self.next)
        return self.next

    def resolve(self, plain, value, raw):
        tag = plain["tag"]
        if tag == "yours":
            return self.objects[plain["id"]]
        if tag == "mine":
            return self.remote(int(plain["id"]), plain["about"])
        if tag == "leaf":
            tensor = grad_tensor(value(plain["v"]), plain["parameter"] is True)
            self.arriving = self.arriving or Frame(False)
            self.arriving.leaves.append(tensor)
            return tensor
        if tag == "live":
            return self.live(plain, value(plain["v"]))
        raise WireError("a message that makes no sense")

    def live(self, plain, data):
        """The tensor of this side that stands for one of the other's, with a backward pass that goes there."""
        frame = self.frames.get(plain["frame"])
        leaves = frame.leaves if frame is not None else []
        tensor = bridge(self, int(plain["id"]), plain["frame"], data, leaves)
        if len(self.stack) > 1 and self.stack[-1] is frame:
            self.stack[-2].leaves.append(tensor)
        return tensor

    # ---- calls ------------------------------------------------------------------------------------------------------

    def ask(self, what, *details, args=(), kwargs=None, context=None):
        """Have the other side do something, and answer what it asks meanwhile. Raises what it raised."""
        if len(self.stack) >= DEPTH:
            raise RecursionError("calls between a test and an answer are nested too deeply")
        frame, kwargs = self.open(Frame(True), what), kwargs or {}
        try:
            message = ["ask", what, list(details), list(args), kwargs, frame.number, context]
            self.give(message)
            frame.going = False
            while True:
                message = self.receive()
                if message[0] == "back":
                    _, right, value, changes = message
                    if changes:
                        self.take_changes(what, details, args, kwargs, changes)
                    if not right:
                        raise self.error(value)
                    return value
                self.answer(message)
        finally:
            self.stack.remove(frame)

    def give(self, message):
        self.channel.send(message, self.deadline)

    def take_changes(self, what, details, args, kwargs, changes):
        """Bring what was passed on to the state that the other side left it in."""
        held = mutables(args, kwargs)
        for place, new in changes:
            put(held[place], new)

    def open(self, frame, what, number=None):
        """Put a call on the stack, and keep its tensors for later."""
        if number is None:
            self.next += 1
            number = self.sign * self.next
        frame.number = number
        self.stack.append(frame)
        if what != "vjp":
            self.frames[number] = frame
        while len(self.frames) > FRAMES:
            for old in self.frames.popitem(last=False)[1].live:
                self.objects.pop(old, None)
        return frame

    def receive(self):
        message = self.channel.receive(self.deadline)
        forms = {"back": (bool, None, list), "ask": (str, list, list, dict, int, None)}
        if type(message) is not list or not message or type(message[0]) is not str:
            raise WireError("a message that makes no sense")
        form = forms.get(message[0])
        if form is not None and (
            len(message) != len(form) + 1
            or not all(kind is None or type(part) is kind for part, kind in zip(message[1:], form, strict=True))
        ):
            raise WireError("a message that makes no sense")
        return message

    def answer(self, message):
        """Do what the other side asks, and send back what came of it."""
        if message[0] != "ask":
            return self.notice(message)
        _, what, details, args, kwargs, number, context = message
        frame, self.arriving = self.arriving or Frame(False), None
        self.open(frame, what, number)
        try:
            before = snapshot(args, kwargs) if what == "call" else []
            try:
                right, value = True, self.serve(what, details, args, kwargs, context)
            except Closed:
                raise
            except BaseException as error:  # the other side's to judge, also SystemExit
                right, value = False, self.describe_error(error)
            self.give_back(right, value, changed(before, args, kwargs))
        finally:
            self.stack.remove(frame)

    def give_back(self, right, value, changes):
        try:
            self.channel.send(["back", right, value, changes], self.deadline)
        except Closed:
            raise
        except WireError as error:
            self.channel.send(["back", False, self.describe_error(error), []], self.deadline)

    def notice(self, message):
        """What the other side tells without asking."""
        raise WireError("a message that makes no sense")

    def serve(self, what, details, args, kwargs, context):
        """What the other side may ask for."""
        if what == "vjp":
            return self.vjp(*details, *args)
        raise WireError(f"{what} is nothing to ask for")

    def vjp(self, number, frame, others, gradient):
        """The product of a gradient with the Jacobian of a tensor held here, for each tensor that it depends on."""
        import torch

        inputs = [*self.frames[frame].leaves] if frame in self.frames else []
        inputs += [self.objects[n] for n in others]
        value = self.objects[number]
        if not inputs:
            return []
        found = torch.autograd.grad(value, inputs, gradient, retain_graph=True, allow_unused=True)
        return [None if g is None else g.detach() for g in found]


class Frame:
    """A call under way: the tensors with a gradient that it was given (or was given back by what it called)."""

    def __init__(self, going):
        self.going, self.leaves, self.live, self.number = going, [], [], 0


# ---- tensors ---------------------------------------------------------------------------------------------------------


def _torch():
    import sys

    return sys.modules.get("torch")


def is_grad_tensor(value):
    torch = _torch()
    return torch is not None and isinstance(value, torch.Tensor) and value.requires_grad and not value.is_meta


def is_parameter(value):
    return isinstance(value, _torch().nn.Parameter)


def grad_tensor(data, parameter):
    if not is_tensor(data):
        raise WireError("a gradient of what is no tensor")
    return _torch().nn.Parameter(data) if parameter else data.requires_grad_(True)


def is_tensor(value):
    torch = _torch()
    return torch is not None and isinstance(value, torch.Tensor)


def bridge(peer, number, frame, data, leaves, others=()):
    """`data` as a function of the tensors `leaves` and `others` (number -> tensor) whose graph the other side has."""
    torch = _torch()
    numbers, tensors = list(dict(others)), [*leaves, *dict(others).values()]
    if not any(t.requires_grad for t in tensors):
        return data.requires_grad_(data.is_floating_point() or data.is_complex())

    class Bridge(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *_):
            return data.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            found = peer.ask("vjp", number, frame, numbers, args=[gradient.detach()])
            if not isinstance(found, list) or len(found) != len(tensors):
                raise WireError("gradients that make no sense")
            return tuple(fitting(g, t) for g, t in zip(found, tensors, strict=True))

    return Bridge.apply(*tensors)


def fitting(gradient, tensor):
    """A gradient that has the form of its tensor, or None."""
    if gradient is None:
        return None
    if not is_tensor(gradient) or gradient.shape != tensor.shape or gradient.dtype != tensor.dtype:
        raise WireError("a gradient of another form than its tensor")
    return gradient


# ---- arguments that are changed in place -----------------------------------------------------------------------------


def mutables(args, kwargs):
    """The arguments, and what lists among them hold, that a function could change, in an order that both sides know."""
    found, torch = [], _torch()

    def walk(value, depth):
        kind = type(value)
        if kind in (list, tuple) and depth < 3:
            for inner in value[:1000]:
                walk(inner, depth + 1)
        if kind is dict and depth < 3:
            for inner in list(value.values())[:1000]:
                walk(inner, depth + 1)
        if kind in (list, dict, set, bytearray, np.ndarray) or (torch and isinstance(value, torch.Tensor)):
            found.append(value)
        elif torch and isinstance(value, torch.nn.Module):
            found.append(value)

    for value in (*args, *kwargs.values()):
        walk(value, 0)
    return found


def state(module):
    """What of a module may change: its tensors by name, and the gradients at its parameters."""
    tensors = {name: t for name, t in module.state_dict().items() if is_tensor(t)}
    return tensors | {f"{name}.grad": p.grad for name, p in module.named_parameters() if p.grad is not None}


def snapshot(args, kwargs):
    torch = _torch()
    copies = []
    for value in mutables(args, kwargs):
        if torch and isinstance(value, torch.Tensor):
            copies.append(value.detach().clone())
        elif torch and isinstance(value, torch.nn.Module):
            copies.append({n: t.detach().clone() for n, t in state(value).items()})
        else:
            copies.append(value.copy())
    return list(zip(mutables(args, kwargs), copies, strict=True))


def changed(before, args, kwargs):
    """[place among the mutables, what it is now] of what is no longer what it was."""
    found = []
    for place, (value, copy) in enumerate(before):
        if is_tensor(value):
            if not same(value, copy):
                found.append([place, value.detach()])
        elif isinstance(copy, dict) and not isinstance(value, dict):
            now = state(value)
            new = {n: t.detach() for n, t in now.items() if n not in copy or not same(t, copy[n])}
            if new:
                found.append([place, new])
        elif isinstance(value, np.ndarray):
            if value.shape != copy.shape or not same_array(value, copy):
                found.append([place, value])
        elif isinstance(value, list):
            if len(value) != len(copy) or any(a is not b for a, b in zip(value, copy, strict=True)):
                found.append([place, value])
        elif isinstance(value, dict):
            pairs = zip(value.items(), copy.items(), strict=False)
            if len(value) != len(copy) or any(a is not c or b is not d for (a, b), (c, d) in pairs):
                found.append([place, value])
        elif value != copy:
            found.append([place, value])
    return found


def same(tensor, copy):
    torch = _torch()
    if tensor.shape != copy.shape or tensor.dtype != copy.dtype:
        return False
    if tensor.is_meta:
        return True
    tensor = tensor.detach()
    return bool(torch.equal(tensor, copy) or ((tensor == copy) | ((tensor != tensor) & (copy != copy))).all())


def same_array(value, copy):
    if value.dtype.hasobject:
        return all(a is b for a, b in zip(value.ravel().tolist(), copy.ravel().tolist(), strict=True))
    return value.dtype == copy.dtype and value.tobytes() == copy.tobytes()


def put(value, new):
    """Bring an argument of this side to the state that the other side left it in."""
    torch = _torch()
    if is_tensor(value):
        if is_tensor(new) and new.device == value.device:
            value.data = new.detach().to(value.dtype)
    elif torch and isinstance(value, torch.nn.Module) and isinstance(new, dict):
        for name, tensor in value.state_dict(keep_vars=True).items():
            if is_tensor(tensor) and is_tensor(new.get(name)) and new[name].shape == tensor.shape:
                tensor.data = new[name].detach().to(tensor.dtype)
            gradient = new.get(f"{name}.grad")
            if is_tensor(gradient) and gradient.shape == tensor.shape and gradient.dtype == tensor.dtype:
                tensor.grad = gradient.detach()
    elif type(new) is not type(value):
        raise WireError("an argument of another type than was sent")
    elif isinstance(value, np.ndarray):
        if value.shape == new.shape:
            value[...] = new
    elif isinstance(value, (list, bytearray)):
        value[:] = new
    else:
        value.clear()
        value.update(new)
