#!/usr/bin/env python3
"""The models of `cargo xtask bench training` in PyTorch eager, as a data scientist would write them: one
thread, records in memory as one tensor, a new order for each pass, the loss read once a pass.
   python torch_training.py cnn --records 60000 --batch 32 --epochs 1
prints {"torch": VERSION, "seconds": what the passes took}."""
import argparse, json, time
import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument('model', choices=['cnn', 'lstm', 'recommender'])
parser.add_argument('--records', type=int, required=True)
parser.add_argument('--batch', type=int, required=True)
parser.add_argument('--epochs', type=int, required=True)
options = parser.parse_args()
torch.manual_seed(1)
torch.set_num_threads(1)
N = options.records


class Cnn(nn.Module):
    """tests/studies/mnist: two convolutions with pools, a hidden layer, 10 classes."""
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 5 * 5, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, images):
        return self.layers(images.float() / 255)

    @staticmethod
    def data():
        return (torch.randint(0, 256, (N, 1, 28, 28), dtype=torch.uint8),), torch.randint(0, 10, (N,))


class Lstm(nn.Module):
    """tests/studies/physionet2012 with an LSTM: values, masks and times since of 37 variables over 48 hours,
    a summary beside the last state, dropout, 2 classes."""
    def __init__(self, variables=37, hidden=32):
        super().__init__()
        self.lstm = nn.LSTM(3 * variables, hidden, batch_first=True)
        self.dropout, self.output = nn.Dropout(0.6), nn.Linear(hidden + 5 * variables, 2)

    def forward(self, series):
        steps = series.shape[1]
        numbers = torch.arange(steps).view(1, steps, 1)
        mask = ~series.isnan()
        last = (mask.long() * numbers).cummax(1)[0]
        values = series.nan_to_num(0.0)
        before = torch.cat([torch.zeros_like(last[:, :1]), last[:, :-1]], 1)
        since = (numbers - before).float() / steps
        _, (state, _) = self.lstm(torch.cat([values, mask.float(), since], 2))
        count = mask.float().sum(1)
        mean = values.sum(1) / count.clamp_min(1)
        never = count == 0
        least = values.masked_fill(~mask, float('inf')).amin(1).masked_fill(never, 0)
        most = values.masked_fill(~mask, float('-inf')).amax(1).masked_fill(never, 0)
        final = values.gather(1, last[:, -1:]).squeeze(1)
        features = torch.cat([state.squeeze(0), mean, least, most, count / steps, final], 1)
        return self.output(self.dropout(features))

    @staticmethod
    def data():
        series = torch.rand(N, 48, 37)
        series[torch.rand(N, 48, 37) < 0.8] = float('nan')
        return (series,), torch.randint(0, 2, (N,))


class Factors(nn.Module):
    """tests/studies/films: 943 users and a catalogue of 2,000 items, 16 factors, biases."""
    decay, bias_decay = 0.08, 0.02

    def __init__(self):
        super().__init__()
        self.user, self.item = nn.Embedding(943, 16), nn.Embedding(2001, 16)
        self.user_bias, self.item_bias = nn.Embedding(943, 1), nn.Embedding(2001, 1)
        self.bias = nn.Parameter(torch.zeros(1))
        for table in (self.user, self.item):
            nn.init.uniform_(table.weight, -0.125, 0.125)
        for table in (self.user_bias, self.item_bias):
            nn.init.zeros_(table.weight)

    def forward(self, users, items):
        user, item = self.user(users), self.item(items)
        user_bias, item_bias = self.user_bias(users).squeeze(1), self.item_bias(items).squeeze(1)
        weights, biases = user.square().sum() + item.square().sum(), user_bias.square().sum() + item_bias.square().sum()
        self.penalty = (self.decay * weights + self.bias_decay * biases) / len(users)
        return (user * item).sum(1) + user_bias + item_bias + self.bias + 0.6

    @staticmethod
    def data():
        return (torch.randint(0, 943, (N,)), torch.randint(1, 2001, (N,))), torch.rand(N)


def train(model, loss_of, optimizer):
    inputs, labels = model.data()
    began = time.perf_counter()
    for _ in range(options.epochs):
        mean = torch.zeros(1, dtype=torch.float64)
        for rows in torch.randperm(N).split(options.batch):
            loss = loss_of(model, [part[rows] for part in inputs], labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mean += loss.detach() * len(rows)
        mean.item()
    return time.perf_counter() - began


def classify(model, inputs, labels):
    return nn.functional.cross_entropy(model(*inputs), labels)


def regress(model, inputs, labels):
    return nn.functional.mse_loss(model(*inputs), labels) + model.penalty


if options.model == 'recommender':
    model = Factors()
    seconds = train(model, regress, torch.optim.SGD(model.parameters(), lr=0.3))
else:
    model = Cnn() if options.model == 'cnn' else Lstm()
    seconds = train(model, classify, torch.optim.Adam(model.parameters(), lr=1e-3))
print(json.dumps({'torch': torch.__version__, 'seconds': seconds}))
