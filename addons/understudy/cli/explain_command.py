from understudy.cli.console import make_app

app = make_app()


@app.command()
def explain() -> None:
    pass
